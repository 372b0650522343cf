"""The Endpoint Picker's dashboard: rows and titles of its project's *Inference Gateway*, over inpick's page.

Where a query differs from that project's there is a reason. Several gateways see the same pool, so its gauges are averaged and not
added up. The router that reads bodies is part of inpick, so its row shows inpick's reading and its times by phase.
"""

from .board import Dashboard, panel, row

QUANTILES = (("0.95", "95%"), ("0.9", "90%"), ("0.5", "50%"))
FLOW = "inference_extension_flow_control_"
ENQUEUED = FLOW + "request_enqueue_duration_seconds_count"
QUEUED = FLOW + "request_queue_duration_seconds_count"


def spread(family, by=(), legend="", scale=""):
    """The project's three quantiles of a histogram."""
    labels = ", ".join(("le", *by))
    return [
        (f"histogram_quantile({share}, sum by({labels}) (rate({family}_bucket[$__rate_interval]))){scale}", name + legend)
        for share, name in QUANTILES
    ]


def largest(value, peak, by="priority, fairness_id", legend="P{{priority}} - {{fairness_id}}", rest="Other"):
    """A value of the ten flows with the highest peak, and of all others together."""
    outcome = by.removeprefix("priority, fairness_id").strip(", ")
    total = f"sum by ({outcome}) ({value})" if outcome else f"sum({value})"
    part = f"sum by ({by}) ({value}) and on(priority, fairness_id) topk(10, sum by (priority, fairness_id) ({peak}))"
    others = f"sum by ({outcome}) ({part})" if outcome else f"sum({part})"
    return [(part, legend), (f"{total} - {others}", rest)]


def flow(title, unit, *queries, **options):
    """A panel of the flow control layer."""
    return panel(title, unit, *queries, **options)


DISPATCHED = QUEUED + '{outcome="Dispatched"}'

DASHBOARD = Dashboard(
    uid="inference-gateway",
    title="Inference Gateway",
    description="Pools, requests and tokens, as the Endpoint Picker's own dashboard shows them.",
    rows=(
        row(
            "Inference Pool",
            panel("Average KV Cache Utilization", "percentunit", ("avg by(name) (inference_pool_average_kv_cache_utilization)", "{{name}}")),
            panel("Average Queue Size", "short", ("avg by(name) (inference_pool_average_queue_size)", "{{name}}")),
            panel("Queue Size Per Pod", "short", ("max by(name, model_server_pod) (inference_pool_per_pod_queue_size)", "{{name}} {{model_server_pod}}")),
        ),
        row(
            "Inference Objective",
            panel("E2E Request Latency", "s", *spread("inference_objective_request_duration_seconds")),
            panel("Request / s", "reqps", ("sum by(model_name, target_model_name) (rate(inference_objective_request_total[$__rate_interval]))", "{{model_name}} → {{target_model_name}}")),
            panel(
                "Request Error / s",
                "reqps",
                ("sum by(error_code, model_name, target_model_name) (rate(inference_objective_request_error_total[$__rate_interval]))", "{{error_code}} {{model_name}}"),
            ),
            panel("Request Size", "bytes", *spread("inference_objective_request_sizes"), width=6),
            panel("Response Size", "bytes", *spread("inference_objective_response_sizes"), width=6),
            panel("Input Token Count", "short", *spread("inference_objective_input_tokens"), width=6),
            panel("Output Token Count", "short", *spread("inference_objective_output_tokens"), width=6),
        ),
        row(
            "vLLM",
            panel(
                "Token Throughput",
                "short",
                ("sum by(model_name) (rate(vllm:prompt_tokens_total[$__rate_interval]))", "Prompt Tokens/Sec {{model_name}}"),
                ("sum by(model_name) (rate(vllm:generation_tokens_total[$__rate_interval]))", "Generation Tokens/Sec {{model_name}}"),
                width=6,
                description="From the pages of the vLLM pods: the scrape configurations have a job for them.",
            ),
            panel("E2E Request Latency", "s", *spread("vllm:e2e_request_latency_seconds"), width=6),
            panel("Time Per Output Token Latency", "s", *spread("vllm:inter_token_latency_seconds"), width=6),
            panel("Time To First Token Latency", "s", *spread("vllm:time_to_first_token_seconds"), width=6),
        ),
        row(
            "Body Based Router",
            panel(
                "BBR Request Outcomes / s",
                "reqps",
                ('sum(rate(inpick_request_bodies_total{outcome="parsed"}[$__rate_interval]))', "Success"),
                ('sum(rate(inpick_request_bodies_total{outcome="missing_model"}[$__rate_interval]))', "Model Not In Body"),
                ('sum(rate(inpick_request_bodies_total{outcome!~"parsed|missing_model|unread"}[$__rate_interval]))', "Model Not Parsed"),
                description="Bodies that the filter read, that named no model, and that it could not read.",
            ),
            panel("BBR Plugin Processing Latency", "s", *spread("inpick_filter_time_seconds"), description="Time in the filter, of one request in 16."),
            panel("BBR Plugin Processing Latency by Plugin", "s", *spread("inpick_filter_time_seconds", ("phase",), " {{phase}}"), description="Time in the filter by phase of the request."),
        ),
        row(
            "Flow Control Layer",
            flow("Pool Saturation", "percentunit", (f"max by(inference_pool) ({FLOW}pool_saturation)", "{{inference_pool}}")),
            flow("Net Queue Flow", "short", (f"sum(deriv({FLOW}queue_size[$__rate_interval]))", "Net Flow (Req/sec change)"), signed=True),
            flow("Request Arrival Rate", "reqps", *largest(f"rate({ENQUEUED}[$__rate_interval])", f"rate({ENQUEUED}[$__range])")),
            flow("Queue Depth", "short", *largest(f"{FLOW}queue_size", f"max_over_time({FLOW}queue_size[$__range])")),
            flow("Queue Memory Mass", "bytes", *largest(f"{FLOW}queue_bytes", f"max_over_time({FLOW}queue_bytes[$__range])")),
            flow(
                "Dispatch Outcomes",
                "reqps",
                *largest(
                    f"rate({QUEUED}[$__rate_interval])",
                    f"rate({QUEUED}[$__range])",
                    "priority, fairness_id, outcome",
                    "P{{priority}} - {{fairness_id}} - {{outcome}}",
                    "Other - {{outcome}}",
                ),
            ),
            flow(
                "Wait Time (P99)",
                "s",
                (
                    f"histogram_quantile(0.99, sum by (priority, fairness_id, le) (rate({FLOW}request_queue_duration_seconds_bucket[$__rate_interval]))) > 0"
                    f" and on(priority, fairness_id) sum by (priority, fairness_id) (rate({ENQUEUED}[$__rate_interval])) > 0.05",
                    "P{{priority}} - {{fairness_id}}",
                ),
            ),
            flow(
                "Internal Processing Latency (P99)",
                "s",
                *(
                    (f"histogram_quantile(0.99, sum by (le) (rate({FLOW}{family}_duration_seconds_bucket[$__rate_interval]))) > 0", legend)
                    for family, legend in (("dispatch_cycle", "Dispatch Cycle P99"), ("request_enqueue", "Enqueue P99"))
                ),
            ),
            flow("Fairness Sharing Rate", "reqps", *largest(f"rate({DISPATCHED}[$__rate_interval])", f"rate({DISPATCHED}[$__range])")),
        ),
    ),
)
