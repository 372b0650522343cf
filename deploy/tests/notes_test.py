"""What Helm prints after an installation, and docs/helm.md, which says more of the same."""

import re
import unittest

import yaml

import rendered
from rendered import ROOT, objects, of_case, pick

PAGE = (ROOT / "deploy" / "docs" / "helm.md").read_text()
MONITORED = "router.monitoring.prometheus.enabled=true"
READER_OFF = "inpick.metricsReader.create=false"


def notes(*sets):
    values = [word for value in sets for word in ("--set", value)]
    said = rendered.run("helm", "install", rendered.RELEASE, str(rendered.CHART), "--namespace", rendered.NAMESPACE, "--dry-run=client",
                        "--values", str(rendered.VALUES / "sidecar.yaml"), *values)
    return said[said.index("\nNOTES:\n") :]


class Notes(unittest.TestCase):
    def test_the_page_is_where_it_is_said_to_be(self):
        plain = notes()
        self.assertIn('curl -H "Authorization: Bearer $TOKEN" http://localhost:9090/metrics', plain)
        self.assertIn("http://localhost:9090/\n", plain)
        self.assertNotIn("https:", plain)
        secret = "page-certificate"
        by_tls = notes(f"inpick.metricsTLS.secretName={secret}")
        self.assertNotIn("http:", by_tls)
        # The certificate is for the Service's name, which here is this machine.
        host = "my-epp.inference.svc"
        self.assertIn(f"get secret {secret} -o jsonpath='{{.data.ca\\.crt}}'", by_tls)
        self.assertIn(f"--cacert ca.crt --resolve {host}:9090:127.0.0.1 https://{host}:9090/metrics", by_tls)
        self.assertIn("https://localhost:9090/\n", by_tls)

    def test_a_monitor_without_its_secret_is_told_of(self):
        for sets, is_told in (((), False), ((MONITORED,), False), ((READER_OFF,), False), ((MONITORED, READER_OFF), True),
                              ((MONITORED, READER_OFF, "router.monitoring.prometheus.auth.enabled=false"), False)):
            said = notes(*sets)
            self.assertEqual("docs/helm.md#a-second-release" in said, is_told, sets)
            self.assertEqual("Secret inference-gateway-sa-metrics-reader-secret of namespace inference" in said, is_told, sets)
        self.assertIn("Secret other of namespace inference", notes(MONITORED, READER_OFF, "router.monitoring.prometheus.auth.secretName=other"))
        self.assertIn("PodMonitor", notes(MONITORED, READER_OFF, "inpick.monitoring.podMonitor=true"))


class Page(unittest.TestCase):
    def test_a_second_release_finds_what_its_monitor_names(self):
        section = PAGE[PAGE.index("\n## A second release\n") :]
        (block,) = re.findall(r"```yaml\n(.*?)```", section[: section.index("\n## ", 1)], re.S)
        theirs = objects(block)
        documents = objects(of_case("sidecar", "--set", f"{MONITORED},{READER_OFF}"))
        first = objects(of_case("sidecar"))
        (endpoint,) = pick(documents, "ServiceMonitor")["spec"]["endpoints"]
        secret = pick(theirs, "Secret", endpoint["authorization"]["credentials"]["name"])
        account = pick(theirs, "ServiceAccount")["metadata"]["name"]
        self.assertEqual(secret["type"], "kubernetes.io/service-account-token")
        self.assertEqual(secret["metadata"]["annotations"], {"kubernetes.io/service-account.name": account})
        namespaces = {document["metadata"]["namespace"] for document in theirs if "Cluster" not in document["kind"]}
        self.assertEqual(len(namespaces), 1)
        # Bound to the roles that are there: of the first release, and of the second one.
        bindings = [document for document in theirs if document["kind"] == "ClusterRoleBinding"]
        (namespace,) = namespaces
        second = pick(objects(rendered.run("helm", "template", "second", str(rendered.CHART), "--namespace", namespace, "--values",
                                           str(rendered.VALUES / "sidecar.yaml"), "--set", READER_OFF)), "ClusterRole", f"second-{namespace}-epp-live")
        self.assertEqual({binding["roleRef"]["name"] for binding in bindings},
                         {pick(first, "ClusterRole", "inference-gateway-metrics-reader")["metadata"]["name"], second["metadata"]["name"]})
        for binding in bindings:
            self.assertEqual(binding["subjects"], [{"kind": "ServiceAccount", "name": account, "namespace": namespace}])
            self.assertEqual({key: binding["roleRef"][key] for key in ("apiGroup", "kind")}, {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole"})

    def test_replicas_are_left_to_the_autoscaler(self):
        """As the page says: the number is not there for Helm to put back, and must be handed over."""
        self.assertNotIn("replicas", pick(objects(of_case("sidecar", "--set", "router.epp.autoscaling.enabled=true")), "Deployment")["spec"])
        section = PAGE[PAGE.index("\n## Scaling by requests in flight\n") :]
        (handed,) = [text for text in re.findall(r"<<'?END'?\n(.*?)\nEND\n", section, re.S)]
        document = yaml.safe_load(handed)
        deployment = pick(objects(of_case("sidecar")), "Deployment")
        self.assertEqual(document, {"apiVersion": deployment["apiVersion"], "kind": "Deployment", "metadata": {"name": deployment["metadata"]["name"]},
                                    "spec": {"replicas": deployment["spec"]["replicas"]}})


if __name__ == "__main__":
    unittest.main()
