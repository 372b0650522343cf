"""Why requests go where they go: picks, predictions, what was learned, and what the picker knows."""

from .board import Dashboard, Variable, panel, quantiles, row

POOL = 'pool=~"$pool"'


def rate(series, by, matchers=POOL):
    selector = f"{{{matchers}}}" if matchers else ""
    return f"sum by ({by}) (rate({series}{selector}[$__rate_interval]))"


PICKS = "inpick_picks_total"

DASHBOARD = Dashboard(
    uid="inpick-endpoint-picking",
    title="Endpoint Picking",
    description="Picks by endpoint and reason, predictions against what came, and how old and complete the signals are.",
    variables=(Variable("pool", "Pool", "inpick_endpoints:pool"),),
    rows=(
        row(
            "Picks",
            panel("Picks by Endpoint", "reqps", (rate(PICKS, "endpoint"), "{{endpoint}}"), stacked=True),
            panel("Picks by Reason", "reqps", (rate(PICKS, "reason"), "{{reason}}"), stacked=True, description="fallback: Envoy chose; retry: a later entry of the list served; in_flight_only: no load was known."),
            panel("Share of Each Endpoint", "percentunit", (f"{rate(PICKS, 'endpoint')} / scalar(sum(rate({PICKS}{{{POOL}}}[$__rate_interval])))", "{{endpoint}}")),
            panel("Requests in Flight", "short", (f"sum by (endpoint) (inpick_in_flight_requests{{{POOL}}})", "{{endpoint}}")),
            panel("Endpoints by State", "short", (f"max by (state) (sum by (instance, state) (inpick_endpoints{{{POOL}}}))", "{{state}}")),
            panel(
                "Failures and Ejections / s",
                "reqps",
                (rate("inpick_endpoint_failures_total", "endpoint, reason"), "{{endpoint}} {{reason}}"),
                (rate("inpick_ejections_total", "endpoint"), "{{endpoint}} ejected"),
            ),
        ),
        row(
            "Predictions",
            panel("Time to First Token against Prediction", "short", *quantiles(f"inpick_ttft_ratio_bucket{{{POOL}}}", (0.1, 0.5, 0.9)), description="What came divided by what the pick predicted: above 1 it took longer."),
            panel(
                "Prefix Tokens",
                "short",
                (rate("inpick_prefix_predicted_tokens_total", "pool"), "predicted {{pool}}"),
                (rate("inpick_prefix_reported_tokens_total", "pool"), "reported {{pool}}"),
                description="Tokens a second that the endpoint was expected to have in its cache, and that it said it had.",
            ),
            panel("Predicted Prefix Share of a Prompt", "percentunit", *quantiles("inference_extension_prefix_indexer_hit_ratio_bucket", (0.25, 0.5, 0.75))),
        ),
        row(
            "Learned of each endpoint",
            panel("Fixed Time", "s", (f"max by (endpoint) (inpick_learned_fixed_time_millionths{{{POOL}}}) / 1e6", "{{endpoint}}"), width=6, description="To the first token of a request that needs no prefill."),
            panel("Prefill Rate", "short", (f"max by (endpoint) (inpick_learned_prefill_tokens_per_second{{{POOL}}})", "{{endpoint}}"), width=6, description="Prompt tokens a second."),
            panel("Time in a Slot", "s", (f"max by (endpoint) (inpick_learned_slot_time_millionths{{{POOL}}}) / 1e6", "{{endpoint}}"), width=6, description="For which a request holds its place in the batch."),
            panel("Slots", "short", (f"max by (endpoint) (inpick_learned_slots{{{POOL}}})", "{{endpoint}}"), width=6, description="Requests that run at once; 0: not known yet, no request has waited."),
        ),
        row(
            "Signals",
            panel("Signal Age", "ms", (f"max by (endpoint) (inpick_signal_age_thousandths{{{POOL}}})", "{{endpoint}}"), description="Since the page that the load in use is from."),
            panel("Snapshot Age", "s", ("max by (instance) (inpick_snapshot_age_seconds)", "{{instance}}"), description="Whole seconds since the sidecar last confirmed it.", quiet="it is confirmed many times a second"),
            panel("Snapshot Fetches / s", "reqps", (rate("inpick_snapshot_fetches_total", "outcome", ""), "{{outcome}}")),
            panel("Missing Signals", "short", (f"max by (engine, signal) (inpick_missing_signals{{{POOL}}})", "{{engine}} {{signal}}"), width=12, description="Endpoints whose page lacks a signal."),
            panel("Label Overflows / s", "short", (rate("inpick_label_overflows_total", "label", ""), "{{label}}"), width=12, description="Values that became `other` because there was no place for them."),
        ),
        row(
            "The filter's work",
            panel("Time of a Pick", "s", *quantiles("inference_extension_scheduler_e2e_duration_seconds_bucket", (0.5, 0.99))),
            panel("Time in the Filter by Phase", "s", *quantiles("inpick_filter_time_seconds_bucket", (0.5, 0.99), ("phase",), " {{phase}}"), description="All callbacks of the phase together, of one request in 16."),
            panel("Request Bodies", "reqps", (rate("inpick_request_bodies_total", "outcome", ""), "{{outcome}}"), stacked=True),
            panel("Responses", "reqps", (rate("inpick_response_bodies_total", "outcome", ""), "{{outcome}}"), stacked=True),
            panel("Routed by Load Alone", "reqps", (rate("inpick_load_only_requests_total", "outcome", ""), "{{outcome}}"), description="Requests without a model to read."),
            panel(
                "The Module",
                "short",
                ("max by (instance) (inpick_vm_starts_total)", "machines started {{instance}}"),
                ("sum by (instance) (inpick_panics_total)", "panics {{instance}}", "only a native module that panicked has them"),
                ("sum by (instance) (inpick_embedded_sidecar_restarts_total)", "sidecar restarts {{instance}}", "only a sidecar in Envoy that failed has them"),
                ("sum by (instance) (inpick_flow_control_lost_total)", "lost while they waited {{instance}}", "only the wasm module with flow control has them"),
            ),
        ),
    ),
)
