"""The page as the reference parser of OpenMetrics reads it."""

import gzip
import json
import re
import time
import urllib.request

from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

MODEL = "meta-llama/Llama-3.1-8B-Instruct"
DEADLINE = 20
OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"


def fetch(url, **headers):
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as page:
        body = page.read()
        if page.headers["content-encoding"] == "gzip":
            body = gzip.decompress(body)
        return page.headers["content-type"], body.decode()


def use(gateway):
    body = {"model": MODEL, "messages": [{"role": "user", "content": "x"}], "max_tokens": 3}
    headers = {"content-type": "application/json"}
    for _ in range(3):
        request = urllib.request.Request(f"{gateway.url}/v1/chat/completions", json.dumps(body).encode(), headers)
        urllib.request.urlopen(request, timeout=30).close()
    # Statistics are a fraction of a second behind, and stats are defined some at a time.
    end = time.monotonic() + DEADLINE
    while gateway.total("inference_objective_request_duration_seconds_count") < 3:
        assert time.monotonic() < end, "the requests are not counted"
        time.sleep(0.1)


def series(families):
    """Each series with its labels; bounds as numbers, which the two formats spell differently, and counters without `_total`, which the
    reader of the older format adds to each of them."""
    found = set()
    for family in families:
        for sample in family.samples:
            labels = {name: float(value) if name in ("le", "quantile") else value for name, value in sample.labels.items()}
            name = sample.name[: -len("_total")] if sample.name.endswith("_total") else sample.name
            found.add((name, tuple(sorted(labels.items(), key=str))))
    return found


def test_the_reference_parser_reads_the_page(gateway):
    use(gateway)
    kind, text = fetch(gateway.metrics, Accept=OPENMETRICS, **{"Accept-Encoding": "gzip"})
    assert kind == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    assert text.endswith("\n# EOF\n")
    # Envoy has statistics of that name.
    assert not re.search(r"^(inference|inpick)_\w*_created", text, re.MULTILINE)
    families = {family.name: family for family in read_openmetrics(text)}
    assert families["inference_objective_request"].type == "counter"
    assert families["inference_objective_request_duration_seconds"].type == "histogram"
    assert families["inference_pool_ready_pods"].type == "gauge"
    assert all(family.documentation for family in families.values())
    # Envoy's own are there as well: counters without `_total` as what has no type.
    envoys = {family.type for name, family in families.items() if name.startswith("envoy_")}
    assert {"counter", "gauge", "unknown", "histogram"} <= envoys

    kind, plain = fetch(gateway.metrics, Accept="text/plain")
    assert kind == "text/plain; version=0.0.4; charset=utf-8"
    # Envoy defines more stats meanwhile, and never fewer.
    lost = series(families.values()) - series(read_text(plain))
    assert not lost, sorted(lost)[:10]
    assert len(series(families.values())) > 1000
