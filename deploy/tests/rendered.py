"""What the chart makes of values, for the tests beside it.

    python deploy/tests/rendered.py    writes golden/, what each file of values/ makes
"""

import difflib
import functools
import hashlib
import subprocess
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy" / "chart"
VALUES = ROOT / "deploy" / "tests" / "values"
GOLDEN = ROOT / "deploy" / "tests" / "golden"
RELEASE, NAMESPACE = "my", "inference"
# A program of these takes less than a second.
SECONDS = 60


class Refused(Exception):
    """A program ended with an error, and what it said."""


def run(*command, text=""):
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=SECONDS, cwd=ROOT)
    if done.returncode != 0:
        raise Refused(done.stderr)
    return done.stdout


@functools.cache
def template(*arguments, release=RELEASE):
    """The objects of the chart, as text."""
    return run("helm", "template", release, str(CHART), "--namespace", NAMESPACE, *arguments)


@functools.cache
def values():
    """The chart's defaults."""
    return yaml.safe_load((CHART / "values.yaml").read_text())


def of_case(case, *arguments):
    return template("--values", str(VALUES / f"{case}.yaml"), *arguments)


def objects(text):
    return [document for document in yaml.safe_load_all(text) if document]


def pick(documents, kind, name=None):
    """The one object of that kind and name."""
    found = [document for document in documents if document["kind"] == kind and name in (None, document["metadata"]["name"])]
    if len(found) != 1:
        raise LookupError(f"{len(found)} of {kind} {name}")
    return found[0]


def bootstrap(documents):
    """Envoy's bootstrap among the objects, as text."""
    return pick(documents, "ConfigMap", f"{RELEASE}-epp-envoy")["data"]["envoy.yaml"]


def summary(text):
    """The objects, with what Helm filled into the bootstrap in its place, and the rules, which are of observability/, left out."""
    documents = objects(text)
    for document in documents:
        if document["kind"] == "ConfigMap":
            shape = "embedded" if "/opt/inpick/libinpick.so" in document["data"]["envoy.yaml"] else "sidecar"
            document["data"]["envoy.yaml"] = filled(shape, document["data"]["envoy.yaml"])
        if document["kind"] == "PrometheusRule":
            document["spec"] = "observability/rules.yml"
        if document["kind"] == "Deployment":
            annotations = document["spec"]["template"]["metadata"]["annotations"]
            annotations["checksum/bootstrap"] = "of the ConfigMap"
    return "---\n".join(yaml.safe_dump(document, sort_keys=False, width=200) for document in documents)


def filled(shape, text):
    """The lines of a bootstrap that are not in the chart's file."""
    source = (CHART / "files" / f"envoy-{shape}.yaml").read_text().splitlines()
    lines = difflib.ndiff(source, text.splitlines())
    return [line[2:].strip() for line in lines if line.startswith("+ ")]


def checksum(text):
    return hashlib.sha256(text.encode()).hexdigest()


def cases():
    return sorted(file.stem for file in VALUES.glob("*.yaml"))


if __name__ == "__main__":
    for case in cases():
        (GOLDEN / f"{case}.yaml").write_text(summary(of_case(case)))
