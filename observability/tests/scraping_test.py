"""Whether the scrape configurations take what the dashboards and rules need."""

import re
import unittest

import yaml

from files import DASHBOARDS, generate, load, rules, series

# What the documentation of Gateway with Inference Extension keeps of Envoy's page; its expression, split over lines, kept nothing.
DOCUMENTED = """
envoy_server_live envoy_server_uptime envoy_server_memory_allocated envoy_server_memory_heap_size envoy_cluster_membership_healthy
envoy_cluster_membership_total envoy_cluster_upstream_cx_active envoy_cluster_upstream_rq_total envoy_cluster_upstream_cx_rx_bytes_total
envoy_cluster_upstream_cx_tx_bytes_total envoy_http_downstream_cx_rx_bytes_total envoy_http_downstream_cx_tx_bytes_total
envoy_cluster_upstream_rq_time_bucket envoy_cluster_upstream_rq_xx envoy_http_downstream_rq_total envoy_http_downstream_cx_total
envoy_http_downstream_rq_time_bucket envoy_listener_downstream_cx_active envoy_tcp_downstream_cx_total
envoy_tcp_downstream_cx_rx_bytes_total envoy_tcp_downstream_cx_tx_bytes_total envoy_cluster_upstream_cx_total
""".split()


def job(name):
    return next(job for job in load("prometheus-kubernetes.yml")["scrape_configs"] if job["job_name"] == name)


class KeepList(unittest.TestCase):
    """Prometheus anchors an expression at both ends, and RE2 reads this one as Python does: it has alternatives and `.+` alone."""

    def setUp(self):
        (keep,) = job("inpick-envoy")["metric_relabel_configs"]
        self.assertEqual((keep["source_labels"], keep["action"]), (["__name__"], "keep"))
        self.assertNotRegex(keep["regex"], r"\s")
        self.assertNotRegex(keep["regex"], r"[^\w().+|]")
        self.keep = re.compile(keep["regex"])

    def test_documented_families_pass(self):
        self.assertEqual([name for name in DOCUMENTED if not self.keep.fullmatch(name)], [])

    def test_our_families_pass(self):
        ours = series(("Envoy", "Both"))
        self.assertGreater(len(ours), 100)
        self.assertEqual([name for name in sorted(ours) if not self.keep.fullmatch(name)], [])

    def test_what_dashboards_and_rules_ask_for_passes(self):
        texts = [query.expr for board in DASHBOARDS for panel in board.panels() for query in panel.queries]
        texts += [variable.metric.split(":")[0] for board in DASHBOARDS for variable in board.variables]
        texts += [rule["expr"] for rule in rules()]
        # Of an expression's labels, which begin with envoy_ too, only names of series are meant: these stand before { or [.
        asked = {name for text in texts for name in re.findall(r"\b(envoy_\w+)(?=[\[{])", text + "{")}
        self.assertGreater(len(asked), 20)
        self.assertEqual([name for name in sorted(asked) if not self.keep.fullmatch(name)], [])

    def test_the_rest_of_envoys_page_does_not(self):
        for name in ("envoy_cluster_assignment_stale", "envoy_runtime_num_keys", "xenvoy_server_live", "envoy_server_live_", "up"):
            self.assertIsNone(self.keep.fullmatch(name), name)


class Jobs(unittest.TestCase):
    def test_names_of_jobs_are_those_that_the_alert_on_lost_targets_knows(self):
        (alert,) = [rule for rule in rules() if rule.get("alert") == "InpickTargetDown"]
        known = re.compile(re.search(r'job=~"([^"]+)"', alert["expr"]).group(1))
        for file in ("prometheus.yml", "prometheus-tls.yml", "prometheus-kubernetes.yml"):
            for scraped in load(file)["scrape_configs"]:
                self.assertEqual(bool(known.fullmatch(scraped["job_name"])), scraped["job_name"] != "vllm")

    def test_the_sidecar_is_asked_with_a_token(self):
        token = "/var/run/secrets/kubernetes.io/serviceaccount/token"
        self.assertEqual(job("inpick")["authorization"], {"credentials_file": token})

    def test_pods_are_looked_up(self):
        self.assertEqual(job("inpick")["kubernetes_sd_configs"], [{"role": "pod"}])
        namespaces = {"names": ["envoy-gateway-system"]}
        self.assertEqual(job("inpick-envoy")["kubernetes_sd_configs"], [{"role": "pod", "namespaces": namespaces}])
        self.assertEqual(job("inpick-envoy")["metrics_path"], "/stats/prometheus")


class Helm(unittest.TestCase):
    def test_values_have_the_jobs_and_the_rules(self):
        values = load("helm/values.yaml")
        self.assertEqual(yaml.safe_load(values["extraScrapeConfigs"]), [job("inpick"), job("vllm")])
        self.assertEqual(values["serverFiles"]["alerting_rules.yml"], load("rules.yml"))
        # The chart puts them through its templates.
        self.assertNotIn("{{", values["extraScrapeConfigs"])

    def test_the_server_runs_as_the_account_that_may_read(self):
        account = load("helm/values.yaml")["serviceAccounts"]["server"]
        self.assertIs(account["create"], False)
        text = (generate.HERE / "helm" / "rbac.yaml").read_text()
        made = {document["kind"]: document for document in yaml.safe_load_all(text)}
        self.assertEqual(made["ServiceAccount"]["metadata"], {"name": account["name"], "namespace": "monitoring"})
        self.assertEqual(made["ClusterRole"]["rules"], [{"nonResourceURLs": ["/metrics", "/debug/pprof/*"], "verbs": ["get"]}])
        (subject,) = made["ClusterRoleBinding"]["subjects"]
        self.assertEqual((subject["name"], subject["namespace"]), (account["name"], "monitoring"))
        self.assertEqual(made["ClusterRoleBinding"]["roleRef"]["name"], made["ClusterRole"]["metadata"]["name"])
        self.assertEqual(made["Secret"]["metadata"]["annotations"]["kubernetes.io/service-account.name"], account["name"])
        names = [document["metadata"]["name"] for document in made.values()]
        self.assertEqual(
            names,
            ["inference-gateway-metrics-reader", "inference-gateway-sa-metrics-reader",
             "inference-gateway-sa-metrics-reader-role-binding", "inference-gateway-sa-metrics-reader-secret"],
        )


if __name__ == "__main__":
    unittest.main()
