"""The CustomResourceDefinitions that tests install."""

import copy
from pathlib import Path

import yaml

import objects

CRDS = Path(__file__).parent / "crds"


def pools():
    return yaml.safe_load((CRDS / "inferencepools.yaml").read_text())


def policies(group):
    """Objectives and rewrites as a group has them. llm-d-router 0.9.0 took the Gateway API Inference Extension's over into a group of its own,
    with the same fields."""
    older = [yaml.safe_load((CRDS / f"{plural}.yaml").read_text()) for plural in ("inferenceobjectives", "inferencemodelrewrites")]
    return older if group == objects.POLICY_GROUP else [_moved(definition, group) for definition in older]


def _moved(definition, group):
    definition = copy.deepcopy(definition)
    definition["metadata"] = {"name": f"{definition['spec']['names']['plural']}.{group}"}
    definition["spec"]["group"] = group
    for version in definition["spec"]["versions"]:
        spec = version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
        if "priority" in spec:
            spec["priority"]["format"] = "int32"
    return definition
