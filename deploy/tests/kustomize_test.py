"""The manifests for kustomize are the chart's objects."""

import sys
import tempfile
import unittest
from pathlib import Path

import kubernetes_validate

import rendered
from rendered import ROOT, objects, pick

sys.path.insert(0, str(ROOT / "deploy"))
import kustomize

FOLDER = ROOT / "deploy" / "kustomize"


def by_name(documents):
    return {(document["kind"], document["metadata"]["name"]): document for document in documents}


class Overlays(unittest.TestCase):
    def test_each_makes_what_the_chart_makes(self):
        for shape in kustomize.SHAPES:
            with self.subTest(shape):
                built = objects(rendered.run("kubectl", "kustomize", str(FOLDER / "overlays" / shape)))
                self.assertEqual(by_name(built), by_name(kustomize.objects(rendered.CHART, shape)))
                for document in built:
                    if document["kind"] != "InferencePool":
                        kubernetes_validate.validate(document, "1.37", strict=True)

    def test_the_base_alone_has_no_gateway(self):
        kinds = {document["kind"] for document in objects(rendered.run("kubectl", "kustomize", str(FOLDER / "base")))}
        self.assertNotIn("Deployment", kinds)
        self.assertIn("ServiceAccount", kinds)

    def test_an_overlay_of_ones_own_changes_namespace_images_and_labels(self):
        own = """\
namespace: mine
resources: [sidecar]
images:
- {name: registry.example/inpick-sidecar, newName: r.mine/a, newTag: "9"}
- {name: registry.example/inpick-gateway, newName: r.mine/b, digest: "sha256:%s"}
patches:
- target: {kind: InferencePool}
  patch: |
    - op: replace
      path: /spec/selector/matchLabels
      value: {app: llama}
""" % ("0" * 64)
        with tempfile.TemporaryDirectory() as scratch:
            for part in FOLDER.rglob("*.yaml"):
                copy = Path(scratch) / part.relative_to(FOLDER)
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_text(part.read_text())
            mine = Path(scratch) / "overlays"
            (mine / "kustomization.yaml").write_text(own)
            built = objects(rendered.run("kubectl", "kustomize", str(mine)))
        for document in built:
            if not document["kind"].startswith("Cluster"):
                self.assertEqual(document["metadata"]["namespace"], "mine", document["kind"])
            for subject in document.get("subjects", []):
                self.assertEqual(subject["namespace"], "mine", document["metadata"]["name"])
        pod = pick(built, "Deployment")["spec"]["template"]["spec"]
        self.assertEqual([pod["initContainers"][0]["image"], pod["containers"][0]["image"]], ["r.mine/a:9", f"r.mine/b@sha256:{'0' * 64}"])
        self.assertEqual(pick(built, "InferencePool")["spec"]["selector"], {"matchLabels": {"app": "llama"}})
        # Nothing in the pod names a namespace: it is the pod's own.
        self.assertNotIn("inpick/", str(pod["initContainers"][0]["args"]).replace("/run/inpick/", "").replace("/etc/inpick/", ""))


if __name__ == "__main__":
    unittest.main()
