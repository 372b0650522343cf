//! Which properties there are, when, and in what form.

use crate::scenario::{Route, Scenario};

const REQUEST: &[&str] = &[
    "request.path",
    "request.url_path",
    "request.query",
    "request.host",
    "request.scheme",
    "request.method",
    "request.id",
    "request.referer",
    "request.useragent",
    "request.headers.x-a",
    "request.headers.x-none",
    "request.protocol",
    "request.size",
    "request.total_size",
    "request.nothing",
];
const RESPONSE: &[&str] = &[
    "response.code",
    "response.code_details",
    "response.flags",
    "response.grpc_status",
    "response.headers.x-r",
    "response.headers.x-none",
    "response.trailers.x-t",
    "response.size",
    "response.nothing",
    "response",
    "upstream.request_attempt_count",
];
const OTHER: &[&str] = &[
    "nothing",
    "plugin_name",
    "plugin_root_id",
    "plugin_vm_id",
    "xds.cluster_name",
    "connection.mtls",
    "connection.nothing",
    "upstream.nothing",
    "request",
    "connection",
    "upstream",
    "source",
    "destination",
    "metadata",
    "filter_state",
    "xds",
    "node",
    "filter_state.none",
    "source.nothing",
    "metadata.nothing",
    "",
];
/// Those whose values no two runs share.
const ANY: &[&str] = &[
    "connection.id",
    "connection_id",
    "source.address",
    "source.port",
    "destination.address",
    "destination.port",
    "upstream.address",
    "upstream.port",
    "request.time",
    "request.duration",
];

fn asked(phase: &str, properties: &[&str], how: &str) -> String {
    properties.iter().map(|property| format!("{phase}:{how}={property};")).collect()
}

fn ask(phase: &str) -> String {
    [REQUEST, RESPONSE, OTHER].iter().map(|properties| asked(phase, properties, "try_property")).collect::<String>()
        + &asked(phase, ANY, "try_has_property")
        // In the log it counts what Envoy's connection manager has added.
        + &asked(phase, &["response.total_size"], if phase == "log" { "try_has_property" } else { "try_property" })
}

fn questions(phase: &str) -> Scenario {
    Scenario::guest()
        .bodied("/path?a=b", &[("x-a", "1"), ("x-request-id", "r"), ("user-agent", "u"), ("x-script", &ask(phase))])
        .body("abc")
        .end()
        .respond(200)
        .header("x-r", "2")
        .respond_body("fine")
        .respond_trailers(&[("x-t", "3")])
}

scenarios! {
    properties_at_request_headers: questions("rh");
    properties_in_the_request_body: questions("rb");
    properties_at_response_headers: questions("sh");
    properties_in_the_response_body: questions("sb");
    properties_at_response_trailers: questions("st");
    properties_in_the_log: questions("log");

    properties_of_a_reply: Scenario::guest().post(&format!("rh:reply=429,no;{}", ask("sh"))).body("abc").end();

    properties_in_the_log_of_a_reply: Scenario::guest().post(&format!("rh:reply=429,no;\
              {}", ask("log"))).body("abc").end();

    properties_in_the_log_of_a_client_that_left: Scenario::guest().post(&format!("rh:pause;{}", ask("log"))).leave();

    properties_in_the_log_without_an_upstream: Scenario::guest().route(Route::Nowhere).get(&ask("log")).no_host();

    a_property_that_was_set_is_read: Scenario::guest()
        .get("rh:set_property=mine,value;rh:try_property=mine;rh:try_property=filter_state.wasm.mine;\
              rh:try_property=wasm.mine;rh:try_property=mine.more;sh:try_property=mine;log:try_property=mine")
        .respond_empty(200);
}
