"""Kubernetes' manifests: valid by Kubernetes' schemas, and fitting the programs that they run."""

import json
import re
import shutil
import subprocess

import kubernetes_validate
import pytest
import yaml
from prometheus_client import generate_latest

from deployments.service.metrics import Metrics
from deployments.service.options import ServiceOptions
from tests.deployments.image_file import DEPLOYMENTS, DOCKERFILE, PROJECT, TARGETS
from tests.deployments.manifests import (
    FOLDER,
    RENDERED,
    VARIANTS,
    Manifest,
    container,
    deployment,
    named,
    of_kind,
    pod,
)  # fmt: skip

EVERY = [(variant, manifest) for variant, manifests in RENDERED.items() for manifest in manifests]
PODS = [(program, variant) for program in TARGETS for variant in VARIANTS]


@pytest.mark.parametrize(("variant", "manifest"), EVERY, ids=[f"{v}-{m['kind']}-{named(m)}" for v, m in EVERY])
def test_a_manifest_follows_its_schema(variant: str, manifest: Manifest):
    kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)
    assert "namespace" not in manifest["metadata"], "the namespace is that of the current context"
    assert manifest["metadata"]["labels"]["app.kubernetes.io/part-of"] == "naruto"


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
@pytest.mark.parametrize("variant", VARIANTS)
def test_kubectl_renders_the_same(variant: str):
    process = subprocess.run(["kubectl", "kustomize", VARIANTS[variant]], capture_output=True, text=True, check=True)
    rendered = {(m["kind"], named(m)): m for m in yaml.safe_load_all(process.stdout)}
    assert rendered == {(m["kind"], named(m)): m for m in RENDERED[variant]}


def test_no_manifest_is_a_secret():
    assert len(EVERY) > 25
    assert "Secret" not in {manifest["kind"] for _, manifest in EVERY}
    assert not re.search(r"(?i)(password|token|key): *['\"]?(nk-|hf_|[a-f0-9]{16})", str(EVERY))


@pytest.mark.parametrize(("program", "variant"), PODS)
def test_a_pod_has_no_privileges(program: str, variant: str):
    spec = pod(program, variant)
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    user, group = re.findall(r"(?m)^USER (\d+):(\d+)$", DOCKERFILE)[0]
    assert spec["securityContext"]["runAsUser"] == int(user)
    assert {spec["securityContext"][name] for name in ("runAsGroup", "fsGroup")} == {int(group)}
    for each in [*spec.get("initContainers", []), *spec["containers"]]:
        assert each["securityContext"] == {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
        }  # fmt: skip
        assert {"cpu", "memory"} <= set(each["resources"]["requests"])
        assert "memory" in each["resources"]["limits"]


@pytest.mark.parametrize(("program", "variant"), PODS)
def test_a_pod_can_write_to_its_data_and_to_tmp(program: str, variant: str):
    spec = pod(program, variant)
    (home,) = re.findall(r"NARUTO_HOME=(/\w+)", DOCKERFILE)
    mounted = {mount["mountPath"]: mount["name"] for mount in container(program, variant)["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    assert {home, "/tmp"} <= set(mounted)
    assert set(mounted.values()) == set(volumes)
    claims = of_kind("PersistentVolumeClaim", variant)
    assert volumes[mounted[home]]["persistentVolumeClaim"]["claimName"] in claims


@pytest.mark.parametrize(("program", "variant"), PODS)
def test_variables_of_kubernetes_are_not_read_as_settings(program: str, variant: str):
    """For a Service called naruto-service, Kubernetes would set NARUTO_SERVICE_PORT=tcp://..., which is no port."""
    assert pod(program, variant)["enableServiceLinks"] is False
    assert "naruto-service" in of_kind("Service")


@pytest.mark.parametrize(("program", "variant"), PODS)
def test_images_are_targets_of_the_dockerfile(program: str, variant: str):
    spec = pod(program, variant)
    images = {each["image"] for each in [*spec.get("initContainers", []), *spec["containers"]]}
    assert images == {f"naruto-{program}:{PROJECT['version']}"}
    assert f" AS {program}\n" in DOCKERFILE


@pytest.mark.parametrize(("program", "variant"), PODS)
def test_probes_use_the_port_and_the_path_that_the_program_has(program: str, variant: str):
    each = container(program, variant)
    (port,) = each["ports"]
    stage = DOCKERFILE.partition(f" AS {program}\n")[2].partition("\nFROM ")[0]
    assert re.findall(r"(?m)^EXPOSE (\d+)$", stage) == [str(port["containerPort"])]
    (alive,) = re.findall(rf"http://127\.0\.0\.1:{port['containerPort']}(/[\w/]+)'", stage)
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        request = each[probe]["httpGet"]
        assert request["port"] == port["name"]
        assert request["path"] == ("/readyz" if (program, probe) == ("service", "readinessProbe") else alive)
    assert each["startupProbe"]["periodSeconds"] * each["startupProbe"]["failureThreshold"] >= 120


def test_the_probes_of_the_service_are_its_routes():
    source = (DEPLOYMENTS / "service" / "app.py").read_text()
    each = container("service")
    for probe, path in {"startupProbe": "/healthz", "readinessProbe": "/readyz", "livenessProbe": "/healthz"}.items():
        assert each[probe]["httpGet"]["path"] == path
        assert f'@app.get("{path}"' in source
    scraped = deployment("service")["spec"]["template"]["metadata"]["annotations"]
    assert f'@app.get("{scraped["prometheus.io/path"]}"' in source
    assert scraped["prometheus.io/port"] == str(ServiceOptions.model_fields["port"].default)


def test_an_outage_of_the_prefect_server_does_not_end_a_training():
    probe = container("worker")["livenessProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] >= 1800


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_service_has_time_to_draw_accepted_pictures(variant: str):
    drain = ServiceOptions.model_fields["drain_seconds"].default
    before = int(container("service", variant)["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod("service", variant)["terminationGracePeriodSeconds"] > before + 2 * drain + 1


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_selector_selects_its_own_pods(variant: str):
    labels = {name: d["spec"]["template"]["metadata"]["labels"] for name, d in of_kind("Deployment", variant).items()}
    for name, manifest in of_kind("Deployment", variant).items():
        assert manifest["spec"]["selector"]["matchLabels"].items() <= labels[name].items()
    selectors = [(named(m), m["spec"]["selector"]) for m in of_kind("Service", variant).values()]
    budgets = of_kind("PodDisruptionBudget", variant).values()
    selectors += [(named(m), m["spec"]["selector"]["matchLabels"]) for m in budgets]
    assert len(selectors) == 3
    for name, selector in selectors:
        assert [selected for selected, of_pod in labels.items() if selector.items() <= of_pod.items()] == [name]


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_service_targets_a_port_that_its_pods_have(variant: str):
    services = of_kind("Service", variant)
    assert set(services) == {"naruto-service", "naruto-dashboard"}
    for name, manifest in services.items():
        (port,) = manifest["spec"]["ports"]
        assert {port["targetPort"]} == {p["name"] for p in container(name.removeprefix("naruto-"), variant)["ports"]}
        assert port["port"] == container(name.removeprefix("naruto-"), variant)["ports"][0]["containerPort"]
        assert manifest["spec"].get("type", "ClusterIP") == "ClusterIP"


@pytest.mark.parametrize("variant", VARIANTS)
def test_only_named_connections_are_allowed(variant: str):
    policies = of_kind("NetworkPolicy", variant)
    closed = policies["naruto-nothing"]["spec"]
    assert set(closed["policyTypes"]) == {"Ingress", "Egress"}
    assert "ingress" not in closed
    assert "egress" not in closed
    for manifest in of_kind("Deployment", variant).values():
        labels = manifest["spec"]["template"]["metadata"]["labels"]
        assert closed["podSelector"]["matchLabels"].items() <= labels.items()
    for policy in policies.values():
        for rule in [*policy["spec"].get("ingress", []), *policy["spec"].get("egress", [])]:
            assert rule["ports"], "a rule without ports opens all ports"
            assert rule.get("from") or rule.get("to"), "a rule without peers allows everybody"


@pytest.mark.parametrize("variant", VARIANTS)
def test_policies_allow_the_ports_that_listen_and_the_addresses_of_the_settings(variant: str):
    policies = of_kind("NetworkPolicy", variant)
    for program in ("service", "dashboard"):
        (rule,) = policies[f"naruto-{program}"]["spec"]["ingress"]
        assert [p["port"] for p in rule["ports"]] == [container(program, variant)["ports"][0]["containerPort"]]
    settings = of_kind("ConfigMap", variant)["naruto-settings"]["data"]
    out = {p: json.dumps(policies[f"naruto-{p}"]["spec"]["egress"]) for p in ("worker", "dashboard")}
    for program, address in {"worker": "PREFECT_API_URL", "dashboard": "NARUTO_SERVICE"}.items():
        host, port = re.findall(r"^http://([\w-]+):(\d+)", settings[address])[0]
        assert f'"port": {port}' in out[program]
        assert f'"app.kubernetes.io/name": "{host}"' in out[program]


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_secret_has_a_command_that_creates_it(variant: str):
    secrets = {
        (ref["name"], ref["key"])
        for program in TARGETS
        for variable in container(program, variant).get("env", [])
        if (ref := variable.get("valueFrom", {}).get("secretKeyRef"))
    }
    text = "\n".join(path.read_text() for path in FOLDER.rglob("*.yaml"))
    assert len(secrets) == (3 if variant == "gpu" else 2)
    for name, key in secrets:
        assert f"kubectl create secret generic {name} --from-literal={key}=" in text


def test_sqlite_is_on_one_node_and_pods_on_several_nodes_have_a_database_server():
    """Base: a volume of one node, all pods on it. Overlay: no SQLite, so they may be anywhere."""
    assert of_kind("PersistentVolumeClaim", "base")["naruto-data"]["spec"]["accessModes"] == ["ReadWriteOnce"]
    assert of_kind("HorizontalPodAutoscaler", "base") == {}
    for program in TARGETS:
        (near,) = pod(program)["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        assert near["topologyKey"] == "kubernetes.io/hostname"
        labels = deployment(program)["spec"]["template"]["metadata"]["labels"]
        assert near["labelSelector"]["matchLabels"].items() <= labels.items()
        assert deployment(program)["spec"]["replicas"] == 1
        assert deployment(program)["spec"]["strategy"] == {"type": "Recreate"}
        database = [v for v in container(program, "gpu")["env"] if v["name"] == "NARUTO_DATABASE"]
        assert database[0]["valueFrom"]["secretKeyRef"]["key"] == "NARUTO_DATABASE"
        assert "affinity" not in pod(program, "gpu")
    assert of_kind("PersistentVolumeClaim", "gpu")["naruto-data"]["spec"]["accessModes"] == ["ReadWriteMany"]


def test_the_database_driver_of_the_secret_is_in_the_image():
    text = (VARIANTS["gpu"] / "kustomization.yaml").read_text()
    (dialect,) = set(re.findall(r"postgresql\+(\w+)://", text))
    extras = PROJECT["optional-dependencies"]
    assert "--all-extras" in DOCKERFILE
    assert [line for lines in extras.values() for line in lines if line.startswith(dialect)]


@pytest.mark.parametrize("program", ["service", "worker"])
def test_a_gpu_belongs_to_one_pod(program: str):
    each, spec = container(program, "gpu"), pod(program, "gpu")
    assert each["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert "nvidia.com/gpu" not in str(deployment(program))
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in spec["tolerations"]
    shm = next(volume for volume in spec["volumes"] if volume["name"] == "shm")
    assert shm["emptyDir"]["medium"] == "Memory"
    assert {"name": "shm", "mountPath": "/dev/shm"} in each["volumeMounts"]
    # a lock on the shared volume would let pods with a GPU each take turns
    assert of_kind("ConfigMap")["naruto-settings"]["data"]["NARUTO_LOCK_FOLDER"].startswith("/tmp/")


def test_the_autoscaler_uses_a_metric_that_the_service_has_and_the_adapter_passes_on():
    (scaler,) = of_kind("HorizontalPodAutoscaler").values()
    (metric,) = scaler["spec"]["metrics"]
    name = metric["pods"]["metric"]["name"]
    assert f"\n{name} 0.0\n" in generate_latest(Metrics().registry).decode()
    adapter = yaml.safe_load((VARIANTS["gpu"] / "prometheus-adapter.yml").read_text())
    (rule,) = adapter["rules"]["custom"]
    assert rule["seriesQuery"].startswith(f"{name}{{")
    assert re.fullmatch(rule["name"]["matches"], name)
    assert rule["name"]["as"] == name
    assert {kind["resource"] for kind in rule["resources"]["overrides"].values()} == {"namespace", "pod"}
    assert "replicas" not in deployment("service", "gpu")["spec"], "the autoscaler and the manifest would disagree"
    assert scaler["spec"]["scaleTargetRef"]["name"] == named(deployment("service", "gpu"))
    assert int(metric["pods"]["target"]["averageValue"]) < ServiceOptions.model_fields["longest_queue"].default
