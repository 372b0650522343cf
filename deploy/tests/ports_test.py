"""Ports that somebody else has to find in a pod."""

import unittest

import rendered
from rendered import ROOT, objects, of_case, pick


def looked_up(documents, labels):
    """(kind, port) of each port of pods with these labels that Services and NetworkPolicies give."""
    for document in documents:
        if document["kind"] == "Service" and document["spec"]["selector"].items() <= labels.items():
            yield from (("Service", port["targetPort"]) for port in document["spec"]["ports"])
        if document["kind"] == "NetworkPolicy":
            yield from (("NetworkPolicy", port["port"]) for rule in document["spec"]["ingress"] for port in rule["ports"])


def ports(pod, *kinds):
    return {port["name"]: port["containerPort"] for kind in kinds for container in pod.get(kind, []) for port in container.get("ports", [])}


class LookedUp(unittest.TestCase):
    """Kubernetes looks for a port's name among the sidecars, too, from 1.32 on; the chart says that it runs on 1.30."""

    def sources(self):
        for case in rendered.cases():
            yield case, objects(of_case(case, "--set", "inpick.networkPolicy.enabled=true"))
        for shape in ("sidecar", "embedded"):
            yield f"kustomize {shape}", objects(rendered.run("kubectl", "kustomize", str(ROOT / "deploy" / "kustomize" / "overlays" / shape)))
        yield "istio", [document for file in sorted((ROOT / "deploy" / "istio").glob("*.yaml")) for document in objects(file.read_text())]

    def test_no_name_has_to_be_found_in_a_sidecar(self):
        for source, documents in self.sources():
            template = pick(documents, "Deployment")["spec"]["template"]
            named = ports(template["spec"], "containers")
            numbers = set(ports(template["spec"], "containers", "initContainers").values())
            found = list(looked_up(documents, template["metadata"]["labels"]))
            for kind, port in found:
                with self.subTest(source, kind=kind, port=port):
                    self.assertIn(port, numbers if isinstance(port, int) else named)
            # The page of the sidecar is among them.
            self.assertGreaterEqual(len(found), 2, source)
            self.assertIn(9090, numbers, source)


if __name__ == "__main__":
    unittest.main()
