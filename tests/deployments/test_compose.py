"""The compose file and what it mounts: valid by its schema, and fitting the programs that it starts."""

import os
import re
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments.service.options import ServiceOptions
from tests.deployments.image_file import (
    DEPLOYMENTS,
    DOCKERFILE,
    HOUSE,
    LISTENS,
    PROJECT,
    TARGETS,
    command,
    ships,
    tool,
)  # fmt: skip

COMPOSE = yaml.safe_load((DEPLOYMENTS / "compose" / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OWN_IMAGES = {name for name, service in SERVICES.items() if "build" in service}
ONCE = {name for name, service in SERVICES.items() if service["restart"] == "no"}


def test_our_images_have_the_version_of_the_project():
    for name in OWN_IMAGES:
        service = SERVICES[name]
        assert service["image"] == f"naruto-{service['build']['target']}:{PROJECT['version']}"
        assert service["build"]["target"] in TARGETS
        assert (DEPLOYMENTS / "compose" / service["build"]["context"]).resolve() == HOUSE


@pytest.mark.parametrize("file", ["compose.yaml", "compose.gpu.yaml"])
def test_a_compose_file_follows_the_schema(file: str):
    command_line = [
        tool("check-jsonschema"),
        "--builtin-schema",
        "vendor.compose-spec",
        str(DEPLOYMENTS / "compose" / file),
    ]
    process = subprocess.run(command_line, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stdout


def test_the_overlay_for_gpus_changes_services_that_exist():
    overlay = yaml.safe_load((DEPLOYMENTS / "compose" / "compose.gpu.yaml").read_text())["services"]
    assert set(overlay) == {"worker", "service"}
    for service in overlay.values():
        assert service["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_has_no_privileges(name: str):
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "pid", "ipc", "devices"} & set(service)
    assert not any("docker.sock" in volume for volume in service.get("volumes", []))


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_has_a_health_check_or_ends(name: str):
    service = SERVICES[name]
    assert ("healthcheck" in service) or name in ONCE or service["build"]["target"] in TARGETS
    assert not (name in ONCE and "ports" in service)


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_waits_for_a_state_that_the_other_can_reach(name: str):
    for other, dependency in SERVICES[name].get("depends_on", {}).items():
        assert dependency["condition"] == ("service_completed_successfully" if other in ONCE else "service_healthy")


def test_ports_are_published_on_this_machine_only_and_once():
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(ports) == 6
    assert all(re.fullmatch(r"127\.0\.0\.1:(\d+):\1", port) for port in ports)
    assert len(set(ports)) == len(ports)
    assert {f"127.0.0.1:{port}:{port}" for port in ("8000", "8501")} < set(ports)


def test_no_secret_is_in_a_file_and_a_missing_one_is_an_error():
    text = (DEPLOYMENTS / "compose" / "compose.yaml").read_text()
    settings = [item for service in SERVICES.values() for item in service.get("environment", {}).items()]
    secret = {name: value for name, value in settings if re.search("PASSWORD|TOKEN|SECRET|KEY", name)}
    assert len(secret) >= 3
    assert [name for name, value in secret.items() if not value.startswith("${")] == []
    assert re.search(r"(?i)(password|token|key)=\S", DOCKERFILE) is None
    example = (DEPLOYMENTS / "compose" / "compose.env.example").read_text()
    variables = set(re.findall(r"(?<!\$)\$\{(\w+)", text))
    assert variables == set(re.findall(r"(?m)^(\w+)=$", example))
    optional = set(re.findall(r"(?<!\$)\$\{(\w+)(?!:\?|\w)", text))  # `:?` rejects an empty value too
    assert optional == {"HF_TOKEN", "NARUTO_NOTIFICATIONS"}
    ignored = subprocess.run(
        ["git", "check-ignore", "deployments/compose/.env"], cwd=HOUSE, capture_output=True, check=False
    )
    assert ignored.returncode == 0


@pytest.mark.parametrize("name", sorted(OWN_IMAGES))
def test_a_command_starts_a_program_that_the_image_has(name: str):
    words = SERVICES[name].get("command") or command(SERVICES[name]["build"]["target"])
    if words[:2] == ["python", "-m"]:
        assert find_spec(words[2])
        return
    script = words[-1] if words[0] == "sh" else words[0]
    programs = re.findall(r"(?m)(?:^|exec |\|\| |&& |^! )\s*(prefect|naruto-service|naruto|streamlit)\b", script)
    assert programs
    assert all(ships(program) for program in programs)


@pytest.mark.parametrize("name", sorted(name for name in OWN_IMAGES if SERVICES[name].get("command", [""])[0] == "sh"))
def test_a_shell_command_has_valid_syntax(name: str):
    script = SERVICES[name]["command"][-1].replace("$$", "$")
    assert subprocess.run(["sh", "-n", "-c", script], capture_output=True, check=False).returncode == 0
    assert SERVICES[name]["command"][:2] == ["sh", "-euc"]


@pytest.mark.parametrize("name", sorted(OWN_IMAGES - {"prefect", "deploy"}))
def test_programs_that_use_runs_share_one_volume(name: str):
    assert SERVICES[name]["volumes"] == ["data:/data"]


def test_the_service_has_time_to_draw_accepted_pictures():
    drain = ServiceOptions.model_fields["drain_seconds"].default
    assert int(SERVICES["service"]["stop_grace_period"].removesuffix("s")) > 2 * drain + 1


def test_mounted_files_exist_and_named_volumes_are_declared():
    sources = [volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])]
    assert {source for source in sources if not source.startswith(".")} == set(COMPOSE["volumes"])
    files = [source for source in sources if source.startswith(".")]
    assert len(files) == 5
    assert [source for source in files if not (DEPLOYMENTS / "compose" / source).exists()] == []
    assert {network for service in SERVICES.values() for network in service.get("networks", [])} == set(
        COMPOSE["networks"]
    )


def mounted_files(service: str) -> dict[str, Path]:
    """Paths in the container of a service, and our files that are mounted there."""
    volumes = (volume.split(":") for volume in SERVICES[service]["volumes"])
    return {
        target: (DEPLOYMENTS / "compose" / source).resolve() for source, target, *_ in volumes if source.startswith(".")
    }


def test_prometheus_finds_its_rules_and_the_service():
    mounted = mounted_files("prometheus")
    config = yaml.safe_load(mounted["/etc/prometheus/prometheus.yml"].read_text())
    assert [f"/etc/prometheus/{name}" in mounted for name in config["rule_files"]] == [True]
    jobs = {job["job_name"]: job["static_configs"][0]["targets"] for job in config["scrape_configs"]}
    assert jobs["naruto"] == [f"service:{LISTENS['service']}"]
    assert 'job="naruto"' in mounted["/etc/prometheus/alerts.yml"].read_text()
    assert set(SERVICES["prometheus"]["networks"]) & set(SERVICES["service"]["networks"])


def test_grafana_finds_its_dashboard_and_prometheus():
    mounted = mounted_files("grafana")
    (source,) = yaml.safe_load((mounted["/etc/grafana/provisioning/datasources"] / "prometheus.yml").read_text())[
        "datasources"
    ]
    assert (source["type"], source["url"], source["isDefault"]) == ("prometheus", "http://prometheus:9090", True)
    (provider,) = yaml.safe_load((mounted["/etc/grafana/provisioning/dashboards"] / "naruto.yml").read_text())[
        "providers"
    ]
    dashboards = [path for target, path in mounted.items() if Path(target).parent == Path(provider["options"]["path"])]
    assert dashboards == [DEPLOYMENTS / "monitoring" / "grafana-service.json"]
    assert set(SERVICES["grafana"]["networks"]) & set(SERVICES["prometheus"]["networks"])


def test_prefect_stores_leases_on_disk_and_its_clients_have_its_address():
    server = SERVICES["prefect"]["environment"]
    assert server["PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"].endswith(".filesystem")
    assert {SERVICES[name]["environment"]["PREFECT_API_URL"] for name in ("worker", "deploy")} == {
        "http://prefect:4200/api"
    }


def test_the_first_key_is_made_once(tmp_path: Path):
    """Runs the script of the service `key` with a `naruto-service` that counts its calls."""
    script = SERVICES["key"]["command"][-1].replace("$$", "$").replace("/data", str(tmp_path))
    stand_in = tmp_path / "naruto-service"
    stand_in.write_text(f"#!/bin/sh\n[ $1 = add-key ] || exit 1\necho x >>{tmp_path}/made\necho nk-1\n")
    stand_in.chmod(0o755)
    for _ in range(2):
        subprocess.run(["sh", "-euc", script], env={"PATH": f"{tmp_path}:{os.environ['PATH']}"}, check=True)
    assert (tmp_path / "made").read_text() == "x\n"
    assert (tmp_path / "playground.key").stat().st_mode & 0o077 == 0
    assert (tmp_path / "playground.key").read_text() == "nk-1\n"
