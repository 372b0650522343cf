"""Latency, tokens and errors by model, from the families of OpenTelemetry's GenAI conventions."""

from .board import Dashboard, Variable, panel, quantiles, row

MODEL = 'gen_ai_request_model=~"$model"'
# Without the requests whose model could not be read.
NAMED = MODEL + ', gen_ai_request_model!=""'
BY_MODEL = "sum by (gen_ai_request_model)"
SHARES = (0.5, 0.95, 0.99)


def rate(series, matchers=MODEL):
    return f"rate({series}{{{matchers}}}[$__rate_interval])"


def by_model(bucket, shares=SHARES):
    return quantiles(f"{bucket}{{{MODEL}}}", shares, ("gen_ai_request_model",), " {{gen_ai_request_model}}")


def share(part, whole):
    """A part of what there was. A series of failures begins with the first one: until then they are 0."""
    return f"({part} or 0 * {whole}) / ({whole} > 0)"


def tokens(kind):
    return f"gen_ai_client_inference_usage_{kind}_tokens_total"


REQUESTS = "gen_ai_client_operation_duration_seconds_count"
FAILED = MODEL + ', error_type!=""'
NAMED_FAILED = NAMED + ', error_type!=""'

DASHBOARD = Dashboard(
    uid="inpick-gen-ai",
    title="GenAI",
    description="What clients of each model get: time to first token, time per token, throughput, errors.",
    variables=(Variable("model", "Model", "gen_ai_client_operation_duration_seconds_count:gen_ai_request_model"),),
    rows=(
        row(
            "Now",
            panel("Requests / s", "reqps", (f"sum({rate(REQUESTS)})", "requests"), kind="stat", width=4, height=4),
            panel("Failed", "percentunit", (share(f"sum({rate(REQUESTS, FAILED)})", f"sum({rate(REQUESTS)})"), "failed"), kind="stat", width=4, height=4),
            panel("Time to First Token (P95)", "s", *quantiles(f"gen_ai_server_time_to_first_token_seconds_bucket{{{MODEL}}}", (0.95,)), kind="stat", width=4, height=4),
            panel("Time per Output Token (P95)", "s", *quantiles(f"gen_ai_server_time_per_output_token_seconds_bucket{{{MODEL}}}", (0.95,)), kind="stat", width=4, height=4),
            panel("Input Tokens / s", "short", (f"sum({rate(tokens('input'))})", "input"), kind="stat", width=4, height=4),
            panel("Output Tokens / s", "short", (f"sum({rate(tokens('output'))})", "output"), kind="stat", width=4, height=4),
        ),
        row(
            "Latency",
            panel("Time to First Token", "s", *by_model("gen_ai_server_time_to_first_token_seconds_bucket", (0.5, 0.95)), description="Of streams, from the request's headers to the first event with content."),
            panel("Time per Output Token", "s", *by_model("gen_ai_server_time_per_output_token_seconds_bucket", (0.5, 0.95)), description="Of streams, each token after the first."),
            panel("Request Duration", "s", *by_model("gen_ai_server_request_duration_seconds_bucket", (0.5, 0.95)), description="Of requests that were sent to a model server."),
        ),
        row(
            "Tokens",
            panel("Input Token Throughput", "short", (f"{BY_MODEL} ({rate(tokens('input'))})", "{{gen_ai_request_model}}"), stacked=True, description="Tokens a second, cached ones included."),
            panel("Output Token Throughput", "short", (f"{BY_MODEL} ({rate(tokens('output'))})", "{{gen_ai_request_model}}"), stacked=True, description="Tokens a second, those of reasoning included."),
            panel(
                "Input Tokens from the Prefix Cache",
                "percentunit",
                (f"{BY_MODEL} ({rate(tokens('cache_read_input'))}) / {BY_MODEL} ({rate(tokens('input'))})", "{{gen_ai_request_model}}"),
                description="Needs model servers that report cached tokens (vLLM: --enable-prompt-tokens-details).",
            ),
            panel("Input Tokens per Request", "short", *quantiles(f'gen_ai_client_token_usage_bucket{{{MODEL}, gen_ai_token_type="input"}}', SHARES)),
            panel("Output Tokens per Request", "short", *quantiles(f'gen_ai_client_token_usage_bucket{{{MODEL}, gen_ai_token_type="output"}}', SHARES)),
            panel(
                "Reasoning Token Throughput",
                "short",
                (f"{BY_MODEL} ({rate(tokens('reasoning_output'))})", "{{gen_ai_request_model}}"),
                stacked=True,
                description="Output tokens a second that were spent on reasoning.",
                empty="the simulated pods do not reason",
            ),
        ),
        row(
            "Requests and errors",
            panel("Requests by Model", "reqps", (f"{BY_MODEL} ({rate(REQUESTS, NAMED)})", "{{gen_ai_request_model}}"), stacked=True),
            panel("Requests by Operation", "reqps", (f"sum by (gen_ai_operation_name) ({rate(REQUESTS)})", "{{gen_ai_operation_name}}"), stacked=True),
            panel("Errors by Type", "reqps", (f"sum by (error_type) ({rate(REQUESTS, FAILED)})", "{{error_type}}"), stacked=True),
            panel("Error Ratio by Model", "percentunit", (share(f"{BY_MODEL} ({rate(REQUESTS, NAMED_FAILED)})", f"{BY_MODEL} ({rate(REQUESTS, NAMED)})"), "{{gen_ai_request_model}}"), width=12),
            panel("Errors by Model and Type", "reqps", (f"sum by (gen_ai_request_model, error_type) ({rate(REQUESTS, NAMED_FAILED)})", "{{gen_ai_request_model}} {{error_type}}"), width=12),
        ),
    ),
)
