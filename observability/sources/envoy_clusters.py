"""Envoy's clusters one by one: a pool of model servers is one, and so is the sidecar."""

from .board import Dashboard, Variable, panel, quantiles, row

CLUSTER = 'envoy_cluster_name=~"$cluster"'
BY_CLUSTER = "sum by (envoy_cluster_name)"
NAME = "{{envoy_cluster_name}}"


def rate(series, matchers=CLUSTER):
    return f"{BY_CLUSTER} (rate({series}{{{matchers}}}[$__rate_interval]))"


def now(series):
    return f"{BY_CLUSTER} ({series}{{{CLUSTER}}})"


ATTEMPTS = rate("envoy_cluster_upstream_rq_total")
FAILED = rate("envoy_cluster_upstream_rq_xx", CLUSTER + ', envoy_response_code_class="5"')

DASHBOARD = Dashboard(
    uid="inpick-envoy-clusters",
    title="Envoy Clusters",
    description="Endpoints, requests, latency, connections, retries and failures of each cluster.",
    variables=(Variable("cluster", "Cluster", "envoy_cluster_membership_total:envoy_cluster_name"),),
    rows=(
        row(
            "Endpoints",
            panel("Healthy Endpoints", "short", (now("envoy_cluster_membership_healthy"), NAME)),
            panel("All Endpoints", "short", (now("envoy_cluster_membership_total"), NAME)),
            panel("Success Rate", "percentunit", (f"1 - ({FAILED} or 0 * {ATTEMPTS}) / ({ATTEMPTS} > 0)", NAME), description="Attempts that were not answered with 5xx; retries count."),
        ),
        row(
            "Requests",
            panel("Requests / s", "reqps", (rate("envoy_cluster_upstream_rq_total"), NAME)),
            panel(
                "Responses by Class",
                "reqps",
                (f"sum by (envoy_cluster_name, envoy_response_code_class) (rate(envoy_cluster_upstream_rq_xx{{{CLUSTER}}}[$__rate_interval]))", NAME + " {{envoy_response_code_class}}xx"),
            ),
            panel("Request Time", "ms", *quantiles(f"envoy_cluster_upstream_rq_time_bucket{{{CLUSTER}}}", (0.5, 0.95, 0.99), ("envoy_cluster_name",), " " + NAME)),
            panel("Active Requests", "short", (now("envoy_cluster_upstream_rq_active"), NAME)),
            panel("Pending Requests", "short", (now("envoy_cluster_upstream_rq_pending_active"), NAME), description="Requests that wait for a connection.", quiet="connections are quick on one machine"),
            panel("Requests without a Connection / s", "reqps", (rate("envoy_cluster_upstream_rq_pending_overflow"), NAME), description="Refused because a circuit breaker was open.", quiet="no circuit breaker opens under so little"),
        ),
        row(
            "Retries and failures",
            panel(
                "Retries / s",
                "reqps",
                (rate("envoy_cluster_upstream_rq_retry"), "retries " + NAME),
                (rate("envoy_cluster_upstream_rq_retry_success"), "successful " + NAME),
                description="A retry goes to the next endpoint of inpick's ranked list.",
            ),
            panel(
                "Timeouts and Resets / s",
                "reqps",
                (rate("envoy_cluster_upstream_rq_timeout"), "timeouts " + NAME),
                (rate("envoy_cluster_upstream_cx_destroy_remote_with_active_rq"), "broken off there " + NAME),
                (rate("envoy_cluster_upstream_cx_destroy_local_with_active_rq"), "given up here " + NAME),
            ),
            panel(
                "Failed Connections / s",
                "cps",
                (rate("envoy_cluster_upstream_cx_connect_fail"), "refused " + NAME),
                (rate("envoy_cluster_upstream_cx_connect_timeout"), "timed out " + NAME),
            ),
        ),
        row(
            "Connections",
            panel("Active Connections", "short", (now("envoy_cluster_upstream_cx_active"), NAME)),
            panel("Connections / s", "cps", (rate("envoy_cluster_upstream_cx_total"), NAME)),
            panel(
                "Traffic",
                "Bps",
                (rate("envoy_cluster_upstream_cx_rx_bytes_total"), "received " + NAME),
                (rate("envoy_cluster_upstream_cx_tx_bytes_total"), "sent " + NAME),
            ),
        ),
    ),
)
