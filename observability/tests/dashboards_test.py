"""Whether the committed dashboards are what their sources say, and what Grafana reads."""

import json
import re
import subprocess
import tempfile
import unittest
from pathlib import Path

import yaml

from files import DASHBOARDS, dashboard, generate, rules, series, sidecar_series

# Rows and panels of the Endpoint Picker's dashboard.
ENDPOINT_PICKERS = {
    "Inference Pool": ["Average KV Cache Utilization", "Average Queue Size", "Queue Size Per Pod"],
    "Inference Objective": ["E2E Request Latency", "Request / s", "Request Error / s", "Request Size", "Response Size",
                            "Input Token Count", "Output Token Count"],
    "vLLM": ["Token Throughput", "E2E Request Latency", "Time Per Output Token Latency", "Time To First Token Latency"],
    "Body Based Router": ["BBR Request Outcomes / s", "BBR Plugin Processing Latency", "BBR Plugin Processing Latency by Plugin"],
    "Flow Control Layer": ["Pool Saturation", "Net Queue Flow", "Request Arrival Rate", "Queue Depth", "Queue Memory Mass",
                           "Dispatch Outcomes", "Wait Time (P99)", "Internal Processing Latency (P99)", "Fairness Sharing Rate"],
}
OURS = re.compile(r"(?<![\w:])((?:inference|inpick|gen_ai|llm_d_epp)_\w+)(?=[\[{()\s,]|$)")


def names(expression):
    """Series of ours in PromQL: words before a selector, but for labels."""
    without_labels = re.sub(r"\b(?:by|on|ignoring|without)\s*\([^)]*\)|\{[^}]*\}|label_values\([^)]*\)", " ", expression)
    return set(OURS.findall(without_labels))


# Of GenAI's two families that are counted for each request, what a model shows whose requests all succeed, and one half of whose fail.
GOOD = 'gen_ai_client_operation_duration_seconds_count{gen_ai_request_model="good"}'
HALF = [
    'gen_ai_client_operation_duration_seconds_count{gen_ai_request_model="half"}',
    'gen_ai_client_operation_duration_seconds_count{gen_ai_request_model="half", error_type="Timeout"}',
]


def evaluated(expression, series):
    """What promtool makes of an expression after ten minutes in which each of these series grew steadily: labels and value of each result."""
    expression = expression.replace("$__rate_interval", "1m").replace("$model", ".*")
    test = {
        "input_series": [{"series": one, "values": "0+60x10"} for one in series],
        "interval": "1m",
        "promql_expr_test": [{"expr": expression, "eval_time": "10m", "exp_samples": [{"labels": "nothing_of_the_kind", "value": -1}]}],
    }
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "test.yml"
        file.write_text(yaml.safe_dump({"evaluation_interval": "1m", "tests": [test]}))
        told = subprocess.run(["promtool", "test", "rules", str(file)], capture_output=True, text=True, timeout=60, check=False)
    (got,) = re.findall(r"got:\s*(.*)", told.stderr + told.stdout)
    return dict(re.findall(r"(\{.*?\}) ([-+.\w]+)", got.replace('\\"', '"')))


class Shares(unittest.TestCase):
    """A gateway whose requests all succeed shows that none failed, and not that nobody knows."""

    def test_requests_that_all_succeed_are_a_share_of_nothing_that_failed(self):
        (board,) = [board for board in DASHBOARDS if board.title == "GenAI"]
        (failed,) = [panel.queries[0].expr for panel in board.panels() if panel.title == "Failed"]
        (by_model,) = [panel.queries[0].expr for panel in board.panels() if panel.title == "Error Ratio by Model"]
        good, half = '{gen_ai_request_model="good"}', '{gen_ai_request_model="half"}'
        self.assertEqual(evaluated(failed, [GOOD]), {"{}": "0E+00"})
        self.assertEqual(evaluated(failed, HALF), {"{}": "5E-01"})
        self.assertEqual(evaluated(by_model, [GOOD, *HALF]), {good: "0E+00", half: "5E-01"})
        # Nobody asked for anything: there is no share.
        self.assertEqual(evaluated(by_model, []), {})


class Dashboards(unittest.TestCase):
    def test_files_are_what_the_sources_say(self):
        self.assertEqual(generate.main(["--check"]), 0)

    def test_the_endpoint_pickers_rows_and_panels_are_there(self):
        (board,) = [board for board in DASHBOARDS if board.title == "Inference Gateway"]
        self.assertEqual({row.title: [panel.title for panel in row.panels] for row in board.rows}, ENDPOINT_PICKERS)

    def test_series_of_panels_and_rules_are_in_the_catalogue_or_the_sidecars_own(self):
        known = series() | sidecar_series()
        self.assertGreater(len(sidecar_series()), 10)
        for board in DASHBOARDS:
            for panel in board.panels():
                for query in panel.queries:
                    with self.subTest(f"{board.title}: {panel.title}"):
                        self.assertEqual(names(query.expr) - known, set())
            for variable in board.variables:
                self.assertEqual(names(variable.metric.split(":")[0]) - known, set())
        for rule in rules():
            with self.subTest(rule.get("alert", rule.get("record"))):
                self.assertEqual(names(rule["expr"]) - known, set())

    def test_rates_are_over_grafanas_interval(self):
        for board in DASHBOARDS:
            for panel in board.panels():
                for query in panel.queries:
                    self.assertEqual(set(re.findall(r"\[(.+?)\]", query.expr)) - {"$__rate_interval", "$__range"}, set(), query.expr)

    def test_panels_have_places_of_their_own(self):
        for board in DASHBOARDS:
            taken = set()
            for panel in dashboard(board)["panels"]:
                place = panel["gridPos"]
                cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
                self.assertFalse(cells & taken, f"{board.title}: {panel['title']}")
                self.assertLessEqual(max(x for x, _ in cells), 23)
                taken |= cells
            identities = [panel["id"] for panel in dashboard(board)["panels"]]
            self.assertEqual(len(identities), len(set(identities)))

    def test_grafanas_own_model_knows_every_field(self):
        try:
            from grafana_foundation_sdk.cog.encoder import JSONEncoder
            from grafana_foundation_sdk.cog.plugins import register_default_plugins
            from grafana_foundation_sdk.models.dashboard import Dashboard
        except ImportError as missing:
            self.skipTest(f"it needs Python 3.11: {missing}")
        register_default_plugins()
        for board in DASHBOARDS:
            written = dashboard(board)
            understood = json.loads(json.dumps(Dashboard.from_json(written), cls=JSONEncoder))
            with self.subTest(board.title):
                self.assertEqual(lost(written, understood), [])


def lost(written, understood, path=""):
    """Where what Grafana's model understood differs from what is written. It may add its defaults."""
    if isinstance(written, dict) and isinstance(understood, dict):
        return [place for key in written for place in lost(written[key], understood.get(key), f"{path}/{key}")]
    if isinstance(written, list) and isinstance(understood, list) and len(written) == len(understood):
        return [place for index, pair in enumerate(zip(written, understood)) for place in lost(*pair, f"{path}/{index}")]
    # Empty values are left out.
    return [] if written == understood or (not written and understood is None) else [f"{path}: {written!r} became {understood!r}"]


if __name__ == "__main__":
    unittest.main()
