"""What the dashboards show: one file a dashboard, with titles, units and queries. `generate.py` makes Grafana's JSON of them."""

from . import endpoint_picking, envoy_clusters, envoy_global, gen_ai, inference_gateway

DASHBOARDS = tuple(
    source.DASHBOARD for source in (inference_gateway, gen_ai, endpoint_picking, envoy_global, envoy_clusters)
)
