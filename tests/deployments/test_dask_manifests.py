"""Kubernetes' manifests of the Dask cluster: valid by Kubernetes' schemas, and fitting each other and the programs."""

from typing import Any

import kubernetes_validate
import pytest
from click.testing import CliRunner
from distributed.cli import dask_scheduler, dask_worker

from naruto_core.settings import Settings
from tasks.shards import scheduler_address
from tests.deployments.image_file import PROJECT
from tests.deployments.manifests import FOLDER, RENDERED, Manifest, named, render

MANIFESTS = render(FOLDER / "overlays" / "dask")
ADDED = [m for m in MANIFESTS if (m["kind"], named(m)) not in {(o["kind"], named(o)) for o in RENDERED["gpu"]}]
PODS = {named(m): m["spec"]["template"]["spec"] for m in ADDED if m["kind"] == "Deployment"}


def one(kind: str, name: str) -> Manifest:
    (manifest,) = (m for m in MANIFESTS if (m["kind"], named(m)) == (kind, name))
    return manifest


def container(name: str) -> dict[str, Any]:
    (found,) = PODS[name]["containers"]
    return found


@pytest.mark.parametrize("manifest", ADDED, ids=[f"{m['kind']}-{named(m)}" for m in ADDED])
def test_a_manifest_of_the_cluster_follows_its_schema(manifest: Manifest):
    kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)
    assert "namespace" not in manifest["metadata"]
    assert manifest["metadata"]["labels"]["app.kubernetes.io/part-of"] == "naruto"


def test_runs_and_workers_use_the_address_of_the_scheduler():
    settings = Settings(runner=one("ConfigMap", "naruto-settings")["data"]["NARUTO_RUNNER"])
    address = scheduler_address(settings)
    (port,) = one("Service", "naruto-dask")["spec"]["ports"]
    assert address == f"tcp://naruto-dask:{port['port']}"
    assert address in container("naruto-dask-worker")["command"]
    (listening,) = container("naruto-dask")["ports"]
    assert (listening["containerPort"], listening["name"]) == (port["port"], port["targetPort"])
    selector = one("Service", "naruto-dask")["spec"]["selector"]
    selected = [d for d in PODS if selector.items() <= one("Deployment", d)["spec"]["selector"]["matchLabels"].items()]
    assert selected == ["naruto-dask"]


def test_only_the_clusters_own_pods_may_connect_to_it():
    ports = {name: container(name)["ports"][0]["containerPort"] for name in PODS}
    peers = {"naruto-dask": {"naruto-worker", "naruto-dask-worker"}, "naruto-dask-worker": {"naruto-dask"}}
    for name, allowed in peers.items():
        (rule,) = one("NetworkPolicy", name)["spec"]["ingress"]
        assert [p["port"] for p in rule["ports"]] == [ports[name]]
        assert {p["podSelector"]["matchLabels"]["app.kubernetes.io/name"] for p in rule["from"]} == allowed
        for peer in allowed:  # and these may open the connection
            policy = "naruto-worker-dask" if peer == "naruto-worker" else peer
            out = one("NetworkPolicy", policy)["spec"]["egress"]
            targets = {
                (to["podSelector"]["matchLabels"]["app.kubernetes.io/name"], p["port"])
                for r in out for to in r["to"] if "podSelector" in to for p in r["ports"]
            }  # fmt: skip
            assert (name, ports[name]) in targets


def test_the_programs_of_dask_take_the_options_of_the_manifests():
    for name, program in (("naruto-dask", dask_scheduler), ("naruto-dask-worker", dask_worker)):
        _, _, *options = container(name)["command"]
        result = CliRunner().invoke(program.main, [*options, "--version"])
        assert result.exit_code == 0, result.output
        assert container(name)["image"] == f"naruto-worker:{PROJECT['version']}"


def test_a_worker_of_the_cluster_has_a_gpu_the_data_and_no_privileges():
    each, spec = container("naruto-dask-worker"), PODS["naruto-dask-worker"]
    assert each["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert {mount["mountPath"] for mount in each["volumeMounts"]} >= {"/data", "/tmp", "/dev/shm"}
    assert spec["volumes"][0]["persistentVolumeClaim"]["claimName"] == "naruto-data"
    for pod in PODS.values():
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["containers"][0]["securityContext"]["readOnlyRootFilesystem"] is True
