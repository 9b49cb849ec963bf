"""The template of Prefect's jobs on Kubernetes: complete, a job, and like the worker that it stands in for."""

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


def test_every_placeholder_of_the_job_template_has_a_variable_and_the_other_way_round():
    assert set(TEMPLATE) == {"job_configuration", "variables"}
    assert placeholders(TEMPLATE["job_configuration"]) == set(TEMPLATE["variables"]["properties"])


def job() -> Manifest:
    """The job that the template makes of its defaults; what has none is left out, as Prefect does."""
    known = {name: field.get("default") for name, field in TEMPLATE["variables"]["properties"].items()}
    known |= {"name": "run", "command": ["prefect", "flow-run", "execute"], "env": [], "labels": {}, "annotations": {}}

    def fill(node: Any) -> Any:
        if isinstance(node, dict):
            filled = {name: fill(value) for name, value in node.items()}
            return {name: value for name, value in filled.items() if value is not None}
        if isinstance(node, list):
            return [fill(value) for value in node]
        whole = re.fullmatch(r"\{\{ *(\w+) *\}\}", node) if isinstance(node, str) else None
        if whole:
            return known[whole[1]]
        return re.sub(r"\{\{ *(\w+) *\}\}", lambda m: str(known[m[1]]), node) if isinstance(node, str) else node

    made = fill(TEMPLATE["job_configuration"]["job_manifest"])
    made["metadata"]["name"] = made["metadata"].pop("generateName") + "1"
    return made


def test_the_job_of_the_template_is_one_and_like_the_worker_of_the_overlay():
    made = job()
    kubernetes_validate.validate(made, kubernetes_validate.latest_version(), strict=True)
    spec, theirs = made["spec"]["template"]["spec"], pod("worker", "gpu")
    same = ("securityContext", "tolerations", "automountServiceAccountToken", "enableServiceLinks", "volumes")
    assert {name: spec[name] for name in same} == {name: theirs[name] for name in same}
    grace = "terminationGracePeriodSeconds"
    assert spec[grace] > theirs[grace], "a flow that is its own job is asked to stop, and saves; a worker ends its flow"
    (each,) = spec["containers"]
    for name in ("image", "securityContext", "volumeMounts"):
        assert each[name] == container("worker", "gpu")[name]
    assert each["resources"]["limits"] == container("worker", "gpu")["resources"]["limits"]
    assert made["spec"]["template"]["metadata"]["labels"].items() <= (
        deployment("worker", "gpu")["spec"]["template"]["metadata"]["labels"].items()
    ), "or else no policy lets it out"
    assert {"secretRef": {"name": "naruto-database"}} in each["envFrom"]
    assert TEMPLATE["variables"]["properties"]["env"]["default"]["PREFECT_HOME"].startswith("/data/")
