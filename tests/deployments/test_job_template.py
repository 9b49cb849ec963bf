"""The template of Prefect's jobs on Kubernetes: complete, valid, and like the worker that it replaces."""

import json
import re
from typing import Any

import kubernetes_validate

from tests.deployments.manifests import FOLDER, Manifest, container, deployment, pod

TEMPLATE = json.loads((FOLDER / "work-pool-job-template.json").read_text())


def placeholders(node: Any) -> set[str]:
    if isinstance(node, dict):
        return set().union(*map(placeholders, node.values()))
    if isinstance(node, list):
        return set().union(*map(placeholders, node))
    return set(re.findall(r"\{\{ *(\w+) *\}\}", node)) if isinstance(node, str) else set()


def test_every_placeholder_of_the_job_template_has_a_variable_and_every_variable_a_placeholder():
    assert set(TEMPLATE) == {"job_configuration", "variables"}
    assert placeholders(TEMPLATE["job_configuration"]) == set(TEMPLATE["variables"]["properties"])


def job() -> Manifest:
    """The job with the template's defaults; a field without a default is removed, as Prefect does."""
    known = {name: field.get("default") for name, field in TEMPLATE["variables"]["properties"].items()}
    known |= {"name": "run", "command": ["prefect", "flow-run", "execute"], "env": [], "labels": {}, "annotations": {}}

    def fill(node: Any) -> Any:
        if isinstance(node, dict):
            filled = {name: fill(value) for name, value in node.items()}
            return {name: value for name, value in filled.items() if value is not None}
        if isinstance(node, list):
            return [fill(value) for value in node]
        placeholder = re.fullmatch(r"\{\{ *(\w+) *\}\}", node) if isinstance(node, str) else None
        if placeholder:
            return known[placeholder[1]]
        return re.sub(r"\{\{ *(\w+) *\}\}", lambda m: str(known[m[1]]), node) if isinstance(node, str) else node

    manifest = fill(TEMPLATE["job_configuration"]["job_manifest"])
    manifest["metadata"]["name"] = manifest["metadata"].pop("generateName") + "1"
    return manifest


def test_the_job_of_the_template_is_valid_and_like_the_worker_of_the_overlay():
    manifest = job()
    kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)
    spec, worker = manifest["spec"]["template"]["spec"], pod("worker", "gpu")
    same = ("securityContext", "tolerations", "automountServiceAccountToken", "enableServiceLinks", "volumes")
    assert {name: spec[name] for name in same} == {name: worker[name] for name in same}
    grace = "terminationGracePeriodSeconds"
    assert spec[grace] > worker[grace], (
        "a flow in its own job gets SIGTERM and saves a checkpoint; a worker ends its flow at once"
    )
    (each,) = spec["containers"]
    for name in ("image", "securityContext", "volumeMounts"):
        assert each[name] == container("worker", "gpu")[name]
    assert each["resources"]["limits"] == container("worker", "gpu")["resources"]["limits"]
    assert manifest["spec"]["template"]["metadata"]["labels"].items() <= (
        deployment("worker", "gpu")["spec"]["template"]["metadata"]["labels"].items()
    ), "else no network policy allows its connections"
    assert {"secretRef": {"name": "naruto-database"}} in each["envFrom"]
    assert TEMPLATE["variables"]["properties"]["env"]["default"]["PREFECT_HOME"].startswith("/data/")
