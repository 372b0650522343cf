#!/usr/bin/env python3
"""Writes what below deploy/ is made of other files: the chart's bootstraps, its schema and its version, and the manifests of
kustomize, for which `helm` is needed.

    deploy/generate.py            writes
    deploy/generate.py --check    exit code 1 and the files that are not up to date
"""

import re
import sys
from pathlib import Path

import yaml

import bootstrap
import kustomize
import schema

ROOT = Path(__file__).resolve().parent.parent
CHART = ROOT / "deploy" / "chart"
# Of a shape of the chart: the bootstrap that it is made of.
SHAPES = {"sidecar": "kubernetes.yaml", "embedded": "native.yaml"}


def version():
    """The workspace's version, which is everything's."""
    return re.search(r'^\[workspace\.package\]\nversion = "([^"]+)"', (ROOT / "Cargo.toml").read_text(), re.M)[1]


def generated():
    """(file, its text) of each."""
    texts = {shape: (ROOT / "envoy" / source).read_text() for shape, source in SHAPES.items()}
    # Both find their endpoints in the same file.
    texts["embedded"] = bootstrap.with_discovery(texts["embedded"], bootstrap.discovery(texts["sidecar"]))
    for shape, text in texts.items():
        yield CHART / "files" / f"envoy-{shape}.yaml", bootstrap.template(SHAPES[shape], text)
    yield CHART / "values.schema.json", schema.text(yaml.safe_load((CHART / "values.yaml").read_text()))
    chart = CHART / "Chart.yaml"
    yield chart, re.sub(r"^(version|appVersion): .*$", rf"\1: {version()}", chart.read_text(), flags=re.M)
    for name, text in kustomize.files(CHART):
        yield ROOT / "deploy" / "kustomize" / name, text


def main(arguments):
    if arguments not in ([], ["--check"]):
        print(__doc__, file=sys.stderr)
        return 2
    outdated = False
    # One after another: the manifests of kustomize are made of the chart's files.
    for file, text in generated():
        if file.exists() and file.read_text() == text:
            continue
        outdated = True
        if arguments:
            print(f"{file.relative_to(ROOT)} is not up to date: run deploy/generate.py")
        else:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
    return int(outdated and bool(arguments))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
