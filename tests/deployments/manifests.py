"""Kubernetes' manifests as kustomize would render them."""

import json
from pathlib import Path
from typing import Any

import jsonpatch
import yaml

from tests.deployments.image_file import DEPLOYMENTS

FOLDER = DEPLOYMENTS / "k8s"
VARIANTS = {"base": FOLDER / "base", "gpu": FOLDER / "overlays" / "gpu"}
Manifest = dict[str, Any]


def render(folder: Path) -> list[Manifest]:
    """The output of `kubectl kustomize`, for the two features that our files use: resources and JSON patches."""
    plan = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert set(plan) <= {"apiVersion", "kind", "resources", "patches"}
    manifests: list[Manifest] = []
    for name in plan["resources"]:
        path = folder / name
        manifests += render(path) if path.is_dir() else list(yaml.safe_load_all(path.read_text()))
    manifests = json.loads(json.dumps(manifests))  # YAML's aliases become copies, as in kustomize
    for change in plan.get("patches", []):
        operations = yaml.safe_load(change["patch"])
        chosen = [m for m in manifests if (m["kind"], named(m)) == (change["target"]["kind"], change["target"]["name"])]
        assert len(chosen) == 1, change["target"]
        manifests[manifests.index(chosen[0])] = jsonpatch.apply_patch(chosen[0], operations)
    return manifests


def named(manifest: Manifest) -> str:
    return manifest["metadata"]["name"]


RENDERED = {variant: render(folder) for variant, folder in VARIANTS.items()}


def of_kind(kind: str, variant: str = "gpu") -> dict[str, Manifest]:
    return {named(m): m for m in RENDERED[variant] if m["kind"] == kind}


def deployment(program: str, variant: str = "base") -> Manifest:
    return of_kind("Deployment", variant)[f"naruto-{program}"]


def pod(program: str, variant: str = "base") -> Manifest:
    return deployment(program, variant)["spec"]["template"]["spec"]


def container(program: str, variant: str = "base") -> Manifest:
    (manifest,) = pod(program, variant)["containers"]
    return manifest
