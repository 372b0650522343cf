"""Whether every alert and recording rule is tested and explained, and whether the endpoint picker's alerts are what they were."""

import re
import unittest

from files import DASHBOARDS, OBSERVABILITY, alerts, load, rules

# Name, severity, impact, title and description of the endpoint picker's alerts.
ENDPOINT_PICKERS = (
    ("HighInferenceRequestLatencyP99", "warning", None,
     "High latency (P99) for model {{ $labels.model_name }}",
     "The 99th percentile request duration for model {{ $labels.model_name }} and target model {{ $labels.target_model_name }} has been"
     " consistently above 10.0 seconds for 5 minutes."),
    ("HighInferenceErrorRate", "critical", "availability",
     "High error rate for model {{ $labels.model_name }}",
     "The error rate for model {{ $labels.model_name }} and target model {{ $labels.target_model_name }} has been consistently above 5%"
     " for 5 minutes."),
    ("HighInferencePoolAvgQueueSize", "critical", "performance",
     "High average queue size for inference pool {{ $labels.name }}",
     "The average number of requests pending in the queue for inference pool {{ $labels.name }} has been consistently above 50 for 5"
     " minutes."),
    ("HighInferencePoolAvgKVCacheUtilization", "critical", "resource_exhaustion",
     "High KV cache utilization for inference pool {{ $labels.name }}",
     "The average KV cache utilization for inference pool {{ $labels.name }} has been consistently above 90% for 5 minutes, indicating"
     " potential resource exhaustion."),
)


class Alerts(unittest.TestCase):
    def setUp(self):
        self.cases = [case for test in load("rules_test.yml")["tests"] for case in test.get("alert_rule_test", ())]

    def test_each_alert_is_seen_firing_and_silent(self):
        for alert in alerts():
            with self.subTest(alert["alert"]):
                cases = [case.get("exp_alerts") for case in self.cases if case["alertname"] == alert["alert"]]
                self.assertTrue(any(cases), "no test in which it fires")
                self.assertTrue(any(not expected for expected in cases), "no test in which it is silent")

    def test_tests_are_of_alerts_that_exist(self):
        self.assertLessEqual({case["alertname"] for case in self.cases}, {alert["alert"] for alert in alerts()})

    def test_texts_name_only_labels_that_the_result_has(self):
        for alert in alerts():
            named = set(re.findall(r"\$labels\.(\w+)", " ".join(alert["annotations"].values())))
            fired = [e for case in self.cases if case["alertname"] == alert["alert"] for e in case.get("exp_alerts") or ()]
            for expected in fired:
                with self.subTest(alert["alert"]):
                    self.assertLessEqual(named, set(expected["exp_labels"]))
                    self.assertEqual(set(expected["exp_annotations"]), set(alert["annotations"]))

    def test_each_alert_has_a_severity_a_title_a_description_and_its_paragraph(self):
        headings = re.findall(r"^## (\w+)$", (OBSERVABILITY / "runbook.md").read_text(), re.M)
        for alert in alerts():
            with self.subTest(alert["alert"]):
                self.assertIn(alert["labels"]["severity"], ("warning", "critical"))
                self.assertEqual(set(alert["annotations"]), {"title", "description", "runbook_url"})
                self.assertEqual(alert["annotations"]["runbook_url"], f"runbook.md#{alert['alert'].lower()}")
        self.assertEqual(headings, [alert["alert"] for alert in alerts()])

    def test_each_paragraph_says_what_it_means_where_to_look_and_what_to_do(self):
        sections = re.split(r"^## (\w+)$", (OBSERVABILITY / "runbook.md").read_text(), flags=re.M)[1:]
        for name, text in zip(sections[::2], sections[1::2]):
            with self.subTest(name):
                self.assertEqual(re.findall(r"\*\*(.+?)\*\*", text), ["Means.", "Look at.", "Do."])
                self.assertGreater(len(text.split()), 40)

    def test_the_runbook_names_dashboards_that_exist(self):
        named = set(re.findall(r"(?<!\*)\*([A-Z][\w ]+)\*(?!\*)", (OBSERVABILITY / "runbook.md").read_text()))
        self.assertLessEqual(named, {board.title for board in DASHBOARDS})
        self.assertGreater(len(named), 3)

    def test_the_endpoint_pickers_alerts_are_as_written_there(self):
        known = {alert["alert"]: alert for alert in alerts()}
        for name, severity, impact, title, description in ENDPOINT_PICKERS:
            with self.subTest(name):
                alert = known[name]
                self.assertEqual(alert["for"], "5m")
                self.assertEqual(alert["labels"], {"severity": severity, **({"impact": impact} if impact else {})})
                self.assertEqual((alert["annotations"]["title"], alert["annotations"]["description"]), (title, description))


class RecordingRules(unittest.TestCase):
    def test_each_recorded_series_is_tested(self):
        tested = " ".join(
            case["expr"] for test in load("recording_rules_test.yml")["tests"] for case in test["promql_expr_test"] if case["exp_samples"]
        )
        for rule in rules():
            if "record" in rule:
                with self.subTest(rule["record"]):
                    self.assertRegex(tested, rf"(?<![\w:]){rule['record']}(?![\w:])")


if __name__ == "__main__":
    unittest.main()
