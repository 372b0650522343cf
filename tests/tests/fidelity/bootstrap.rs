//! Envoy's bootstrap: a listener, a route and a plugin for each scenario.

use std::net::SocketAddr;

use host_sim::FailurePolicy;
use serde_json::{Value, json};

use crate::modules;
use crate::scenario::{Module, RELOAD_BACKOFF, Route, Scenario};
use crate::upstream::Upstreams;

/// Both the service and our filter read the snapshot from the shared data of this id.
const FILTER_VM: &str = "inpick";
/// What the scripted guest is configured with. There is a tick only where a script asks for it, and only one.
pub(crate) const GUEST_CONFIGURATION: &str = "conf:trace;tick:unpark;tick:tick_every=0";
/// What the service is configured with.
pub(crate) const SERVICE_CONFIGURATION: &str = r#"{"snapshot_service": {"cluster": "inpick-sidecar"}}"#;

/// The whole bootstrap.
pub(crate) fn bootstrap(scenarios: &[Scenario], upstreams: &Upstreams) -> Value {
    let listeners: Vec<Value> = scenarios.iter().map(listener).collect();
    json!({
        "admin": {"address": socket(([127, 0, 0, 1], 0).into())},
        "bootstrap_extensions": [{
            "name": "envoy.bootstrap.wasm",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.wasm.v3.WasmService",
                "singleton": true,
                "config": {
                    "name": "service",
                    "root_id": "service",
                    "vm_config": vm(FILTER_VM, Module::Filter("")),
                    "configuration": text(SERVICE_CONFIGURATION),
                },
            },
        }],
        "static_resources": {
            "listeners": listeners,
            "clusters": [
                cluster("upstream", &upstreams.scripted[..1], Some("override")),
                cluster("upstreams", &upstreams.scripted, Some("override")),
                cluster("nowhere", &[], None),
                cluster("backend", &[upstreams.backend], None),
                cluster("silent", &[upstreams.silent], None),
                cluster("dead", &[DEAD], None),
                cluster("inpick-sidecar", &[upstreams.sidecar], None),
            ],
        },
    })
}

/// Nobody listens there: the port is reserved, and a free one could be another test's a moment later.
const DEAD: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);

fn socket(address: SocketAddr) -> Value {
    json!({"socket_address": {"address": address.ip(), "port_value": address.port()}})
}

fn text(value: &str) -> Value {
    json!({"@type": "type.googleapis.com/google.protobuf.StringValue", "value": value})
}

fn vm(id: &str, module: Module) -> Value {
    json!({
        "vm_id": id,
        "runtime": "envoy.wasm.runtime.v8",
        "code": {"local": {"filename": modules::file(module)}},
    })
}

/// The plugin's configuration.
pub(crate) fn configuration(scenario: &Scenario) -> String {
    match scenario.module {
        Module::Guest => GUEST_CONFIGURATION.to_owned(),
        Module::Filter(fields) => {
            let pool = scenario.pool();
            format!(r#"{{"pool": "{pool}", "metrics": {{"flush_interval_ms": 100}}{fields}}}"#).replace('@', pool)
        }
    }
}

fn listener(scenario: &Scenario) -> Value {
    let name = scenario.name;
    let (vm_id, policy) = match scenario.module {
        // The one service keeps the snapshot of them all.
        Module::Filter(_) => (FILTER_VM, "FAIL_RELOAD"),
        Module::Guest => (
            name,
            match scenario.policy {
                FailurePolicy::FailClosed => "FAIL_CLOSED",
                FailurePolicy::FailOpen => "FAIL_OPEN",
                FailurePolicy::FailReload => "FAIL_RELOAD",
            },
        ),
    };
    let (cluster, timeout) = match scenario.route {
        Route::Upstream => ("upstream", 0),
        Route::Timeout(milliseconds) => ("upstream", milliseconds),
        Route::Retrying => ("upstreams", 0),
        Route::Nowhere => ("nowhere", 0),
    };
    let retry = json!({
        "retry_on": "retriable-status-codes",
        "retriable_status_codes": [503],
        "num_retries": 1,
        "retry_back_off": {"base_interval": "0.005s", "max_interval": "0.01s"},
    });
    let mut listener = json!({
        "name": name,
        "address": socket(([127, 0, 0, 1], 0).into()),
        "filter_chains": [{"filters": [{
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                "stat_prefix": "fidelity",
                "generate_request_id": false,
                "http_protocol_options": {"enable_trailers": true},
                "access_log": [{
                    "name": "envoy.access_loggers.stdout",
                    "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog",
                        "log_format": {"text_format_source": {
                            "inline_string": "%REQ(X-STREAM)% %RESPONSE_CODE_DETAILS% .\n",
                        }},
                    },
                }],
                "route_config": {"virtual_hosts": [{
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{
                        "match": {"prefix": "/"},
                        "route": {
                            "cluster": cluster,
                            "timeout": format!("{}.{:03}s", timeout / 1000, timeout % 1000),
                            "retry_policy": if scenario.route == Route::Retrying { retry } else { Value::Null },
                        },
                    }],
                }]},
                "http_filters": [
                    {
                        "name": "wasm",
                        "typed_config": {
                            "@type": "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm",
                            "config": {
                                "name": name,
                                "root_id": name,
                                "failure_policy": policy,
                                "reload_config": {
                                    "backoff": {"base_interval": format!("{:.3}s", RELOAD_BACKOFF.as_secs_f64())},
                                },
                                "allow_on_headers_stop_iteration": scenario.stop_iteration,
                                "vm_config": vm(vm_id, scenario.module),
                                "configuration": text(&configuration(scenario)),
                            },
                        },
                    },
                    {
                        "name": "envoy.filters.http.router",
                        "typed_config": {
                            "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
                            "suppress_envoy_headers": true,
                        },
                    },
                ],
            },
        }]}],
    });
    if let Some(limit) = scenario.limit {
        listener["per_connection_buffer_limit_bytes"] = json!(limit);
    }
    listener
}

fn cluster(name: &str, addresses: &[SocketAddr], policy: Option<&str>) -> Value {
    let endpoints: Vec<Value> =
        addresses.iter().map(|address| json!({"endpoint": {"address": socket(*address)}})).collect();
    let mut cluster = json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]},
    });
    if policy.is_some() {
        cluster["load_balancing_policy"] = json!({"policies": [{"typed_extension_config": {
            "name": "envoy.load_balancing_policies.override_host",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.load_balancing_policies.override_host.v3.OverrideHost",
                "override_host_sources": [{"header": "x-gateway-destination-endpoint"}],
                "fallback_policy": {"policies": [{"typed_extension_config": {
                    "name": "envoy.load_balancing_policies.round_robin",
                    "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin",
                    },
                }}]},
            },
        }}]});
        // A connection serves one request, so that none of them meets a connection that is about to close.
        cluster["typed_extension_protocol_options"] = json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "common_http_protocol_options": {"max_requests_per_connection": 1},
            "explicit_http_config": {"http_protocol_options": {"enable_trailers": true}},
        }});
    }
    cluster
}
