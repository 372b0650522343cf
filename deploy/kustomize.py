"""Manifests for kustomize, made of what the chart renders: what both shapes share in a base, and an overlay for each."""

import subprocess

import yaml

RELEASE = "inpick"
# What a user sets instead: the namespace by `namespace:`, the registry by `images:`, the labels by a patch.
REGISTRY = "registry.example"
VALUES = ("router.modelServers.matchLabels.app=vllm", f"router.epp.image.registry={REGISTRY}")
SHAPES = ("sidecar", "embedded")
# Images of a shape.
IMAGES = {"sidecar": ("inpick-sidecar", "inpick-gateway"), "embedded": ("inpick-gateway",)}
HEAD = "# Written by deploy/generate.py from deploy/chart.\n"
MANAGER = "app.kubernetes.io/managed-by"


def objects(chart, shape):
    """What the chart makes in that shape, without Helm's label."""
    values = [word for value in (*VALUES, f"inpick.shape={shape}") for word in ("--set", value)]
    # In no namespace: kustomize gives it.
    command = ["helm", "template", RELEASE, str(chart), "--namespace", RELEASE, *values]
    text = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    documents = [document for document in yaml.safe_load_all(text) if document]
    for document in documents:
        template = document.get("spec", {}).get("template", {})
        for labelled in (document["metadata"], template.get("metadata", {})):
            labelled.get("labels", {}).pop(MANAGER, None)
    return documents


class Dumper(yaml.SafeDumper):
    """Texts of many lines as blocks."""


Dumper.add_representer(str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None))


def written(documents):
    return HEAD + "---\n".join(yaml.dump(document, Dumper=Dumper, sort_keys=False, width=10_000) for document in documents)


def overlay(shape, version):
    images = "".join(f"- name: {REGISTRY}/{name}\n  newName: {REGISTRY}/{name}\n  newTag: \"{version}\"\n" for name in IMAGES[shape])
    return f"""\
# Written by deploy/generate.py. Take it as the base of your own, which sets namespace, images and the pool's labels.
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
namespace: {RELEASE}
resources:
- ../../base
- gateway.yaml
images:
{images}"""


BASE = f"""\
# Written by deploy/generate.py.
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
namespace: {RELEASE}
resources:
- objects.yaml
"""


def files(chart):
    """(path below deploy/kustomize, text) of each file."""
    version = yaml.safe_load((chart / "Chart.yaml").read_text())["appVersion"]
    shapes = {shape: objects(chart, shape) for shape in SHAPES}
    first, second = shapes.values()
    yield "base/kustomization.yaml", BASE
    yield "base/objects.yaml", written([document for document in first if document in second])
    for shape, other in ((SHAPES[0], second), (SHAPES[1], first)):
        yield f"overlays/{shape}/kustomization.yaml", overlay(shape, version)
        yield f"overlays/{shape}/gateway.yaml", written([document for document in shapes[shape] if document not in other])
