"""The files under test, read."""

import json
import re
import sys
from pathlib import Path

import yaml

OBSERVABILITY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(OBSERVABILITY))

import generate  # noqa: E402
from sources import DASHBOARDS  # noqa: E402

CATALOGUE = OBSERVABILITY.parent / "catalogue" / "src" / "lib.rs"
FAMILY = re.compile(r'^\s+\w+ = "(\w+)", (Counter|Gauge|Ratio|Histogram)\b.*?\], \w+, (Envoy|Sidecar|Both),$', re.M)
# What a series of each kind can be called behind its family's name. Envoy's page alone has ratios in thousandths and sums in millionths.
SUFFIXES = {"Counter": ("",), "Gauge": ("",), "Ratio": ("", "_permille"), "Histogram": ("_bucket", "_sum", "_count", "_sum_microseconds", "_sum_millionths")}


def load(name):
    """A YAML file of observability/."""
    return yaml.safe_load((OBSERVABILITY / name).read_text())


def dashboard(board):
    """A dashboard's committed JSON."""
    return json.loads((OBSERVABILITY / "dashboards" / f"{board.uid}.json").read_text())


def rules():
    """Every rule of rules.yml."""
    return [rule for group in load("rules.yml")["groups"] for rule in group["rules"]]


def alerts():
    return [rule for rule in rules() if "alert" in rule]


def series(publishers=("Envoy", "Sidecar", "Both")):
    """Every series name of the catalogue's families."""
    found = FAMILY.findall(CATALOGUE.read_text())
    return {name + suffix for name, kind, publisher in found if publisher in publishers for suffix in SUFFIXES[kind]}


__all__ = ["DASHBOARDS", "OBSERVABILITY", "alerts", "dashboard", "generate", "load", "rules", "series"]
