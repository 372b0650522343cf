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
# What the sidecar says of itself is no part of the catalogue: nobody but it publishes that.
SIDECAR = OBSERVABILITY.parent / "metrics-sidecar" / "src" / "gauges.rs"
SIDECAR_FAMILY = re.compile(r'Lines::new\(\s*"(inpick_sidecar_\w+)",\s*"(counter|gauge|histogram)"')
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


def sidecar_series():
    """Every series name of the sidecar's own families."""
    found = SIDECAR_FAMILY.findall(SIDECAR.read_text())
    return {name + suffix for name, kind in found for suffix in SUFFIXES[kind.capitalize()]}


__all__ = ["DASHBOARDS", "OBSERVABILITY", "alerts", "dashboard", "generate", "load", "rules", "series", "sidecar_series"]
