"""The gateway as a whole: what Envoy uses, its connections on both sides, and the health of its endpoints."""

from .board import Dashboard, Variable, panel, quantiles, row

INSTANCE = 'instance=~"$instance"'
# The sidecar reads Envoy's admin page: that is no traffic.
CLIENTS = INSTANCE + ', envoy_http_conn_manager_prefix!="admin"'
NO_TCP = "only a listener with a TCP proxy has these families"


def rate(series, matchers=INSTANCE):
    return f"sum by (instance) (rate({series}{{{matchers}}}[$__rate_interval]))"


def now(series, matchers=INSTANCE):
    return f"sum by (instance) ({series}{{{matchers}}})"


DASHBOARD = Dashboard(
    uid="inpick-envoy-global",
    title="Envoy Global",
    description="Resources, downstream and upstream connections, and the health of endpoints, by gateway.",
    variables=(Variable("instance", "Gateway", "envoy_server_live:instance"),),
    rows=(
        row(
            "Now",
            panel("Live Gateways", "short", (f"sum(envoy_server_live{{{INSTANCE}}})", "live"), kind="stat", width=4, height=4),
            panel("Shortest Uptime", "s", (f"min(envoy_server_uptime{{{INSTANCE}}})", "uptime"), kind="stat", width=4, height=4),
            panel("Memory Allocated", "bytes", (f"sum(envoy_server_memory_allocated{{{INSTANCE}}})", "allocated"), kind="stat", width=4, height=4),
            panel("Healthy Endpoints", "percentunit", (f"sum(envoy_cluster_membership_healthy{{{INSTANCE}}}) / sum(envoy_cluster_membership_total{{{INSTANCE}}})", "healthy"), kind="stat", width=4, height=4),
            panel("Downstream Requests / s", "reqps", (f"sum(rate(envoy_http_downstream_rq_total{{{CLIENTS}}}[$__rate_interval]))", "requests"), kind="stat", width=4, height=4),
            panel("Upstream Requests / s", "reqps", (f"sum(rate(envoy_cluster_upstream_rq_total{{{INSTANCE}}}[$__rate_interval]))", "requests"), kind="stat", width=4, height=4),
        ),
        row(
            "Resources",
            panel(
                "Memory",
                "bytes",
                (now("envoy_server_memory_allocated"), "allocated {{instance}}"),
                (now("envoy_server_memory_heap_size"), "heap {{instance}}"),
                description="The heap is what Envoy has reserved, the modules' memory not included.",
            ),
            panel("Uptime", "s", (now("envoy_server_uptime"), "{{instance}}")),
            panel("Live", "short", (now("envoy_server_live"), "{{instance}}"), description="0 while a gateway drains."),
        ),
        row(
            "Downstream",
            panel("Downstream Connections", "short", (now("envoy_listener_downstream_cx_active"), "{{instance}}")),
            panel("Downstream Connections / s", "cps", (rate("envoy_http_downstream_cx_total", CLIENTS), "{{instance}}")),
            panel("Downstream Requests by Gateway", "reqps", (rate("envoy_http_downstream_rq_total", CLIENTS), "{{instance}}")),
            panel(
                "Downstream Traffic",
                "Bps",
                (rate("envoy_http_downstream_cx_rx_bytes_total", CLIENTS), "received {{instance}}"),
                (rate("envoy_http_downstream_cx_tx_bytes_total", CLIENTS), "sent {{instance}}"),
            ),
            panel("Downstream Request Time", "ms", *quantiles(f"envoy_http_downstream_rq_time_bucket{{{CLIENTS}}}", (0.5, 0.95, 0.99)), description="Until the whole response was sent, so streams count to their end."),
            panel(
                "Downstream Responses by Class",
                "reqps",
                (f'sum by (envoy_response_code_class) (rate(envoy_http_downstream_rq_xx{{{CLIENTS}}}[$__rate_interval]))', "{{envoy_response_code_class}}xx"),
                stacked=True,
            ),
        ),
        row(
            "Upstream",
            panel("Upstream Connections", "short", (now("envoy_cluster_upstream_cx_active"), "{{instance}}")),
            panel("Upstream Connections / s", "cps", (rate("envoy_cluster_upstream_cx_total"), "{{instance}}")),
            panel("Upstream Requests by Gateway", "reqps", (rate("envoy_cluster_upstream_rq_total"), "{{instance}}")),
            panel(
                "Upstream Traffic",
                "Bps",
                (rate("envoy_cluster_upstream_cx_rx_bytes_total"), "received {{instance}}"),
                (rate("envoy_cluster_upstream_cx_tx_bytes_total"), "sent {{instance}}"),
                width=12,
            ),
            panel("Upstream Request Time", "ms", *quantiles(f"envoy_cluster_upstream_rq_time_bucket{{{INSTANCE}}}", (0.5, 0.95, 0.99)), width=12),
        ),
        row(
            "Endpoints",
            panel(
                "Endpoints",
                "short",
                (f"sum by (envoy_cluster_name) (envoy_cluster_membership_total{{{INSTANCE}}})", "{{envoy_cluster_name}}"),
                description="As Envoy knows them, over all gateways chosen.",
            ),
            panel("Healthy Endpoints by Cluster", "short", (f"sum by (envoy_cluster_name) (envoy_cluster_membership_healthy{{{INSTANCE}}})", "{{envoy_cluster_name}}")),
            panel(
                "Healthy Share",
                "percentunit",
                (
                    f"sum by (envoy_cluster_name) (envoy_cluster_membership_healthy{{{INSTANCE}}})"
                    f" / sum by (envoy_cluster_name) (envoy_cluster_membership_total{{{INSTANCE}}})",
                    "{{envoy_cluster_name}}",
                ),
                description="By Envoy's own health checks. What inpick thinks of endpoints is on the dashboard Endpoint Picking.",
            ),
        ),
        row(
            "TCP",
            panel("TCP Connections / s", "cps", (rate("envoy_tcp_downstream_cx_total"), "{{instance}}"), width=12, empty=NO_TCP),
            panel(
                "TCP Traffic",
                "Bps",
                (rate("envoy_tcp_downstream_cx_rx_bytes_total"), "received {{instance}}"),
                (rate("envoy_tcp_downstream_cx_tx_bytes_total"), "sent {{instance}}"),
                width=12,
                empty=NO_TCP,
            ),
        ),
    ),
)
