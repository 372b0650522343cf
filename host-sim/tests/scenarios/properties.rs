//! Properties.

use std::time::Duration;

use host_sim::{PropertyValue, Response};

use crate::support::{heard, script, scripted};

#[test]
fn the_host_knows_the_plugin_the_request_and_the_upstream() {
    let host = scripted().plugin_name("picker").root_id("root").vm_id("vm").build().unwrap();
    let request = script(
        "rh:property=plugin_name;rh:property=plugin_root_id;rh:property=plugin_vm_id;rh:property=request.path;\
         rh:property=request.method;rh:property=upstream.address;rh:property=connection.id;\
         sh:property=upstream.address;sh:property=xds.cluster_name;sh:property=request.path;\
         log:property=request.path;log:property=response.code_details",
    );
    host.request(request).unwrap().respond(Response::new(200)).unwrap();
    assert_eq!(
        heard(&host, "property"),
        [
            "plugin_name Some(\"picker\")",
            "plugin_root_id Some(\"root\")",
            "plugin_vm_id Some(\"vm\")",
            "request.path Some(\"/v1/completions\")",
            "request.method Some(\"POST\")",
            "upstream.address None",
            r#"connection.id Some("\\x01\\x00\\x00\\x00\\x00\\x00\\x00\\x00")"#,
            "upstream.address Some(\"127.0.0.1:8000\")",
            "xds.cluster_name Some(\"upstream\")",
            "request.path None",
            "request.path Some(\"/v1/completions\")",
            "response.code_details Some(\"via_upstream\")",
        ]
    );
}

#[test]
fn a_test_sets_hides_and_times_properties() {
    let host = scripted().wall_clock(Duration::from_secs(2)).build().unwrap();
    let request = script(
        "rh:property=source.address;rh:property=request.time;sh:property=upstream.address;\
         sh:property=upstream.request_attempt_count;log:property=request.duration;sh:property=request.duration",
    )
    .property("source.address", "10.0.0.9:5")
    .property("upstream.address", "10.0.0.1:8000");
    let stream = host.request(request).unwrap();
    stream.set_property("upstream.request_attempt_count", 3_u64);
    stream.set_property("upstream.address", PropertyValue::Missing);
    host.advance(Duration::from_nanos(258));
    stream.respond(Response::new(200)).unwrap();
    assert_eq!(
        heard(&host, "property"),
        [
            "source.address Some(\"10.0.0.9:5\")",
            r#"request.time Some("\\x00\\x945w\\x00\\x00\\x00\\x00")"#,
            "upstream.address None",
            r#"upstream.request_attempt_count Some("\\x03\\x00\\x00\\x00\\x00\\x00\\x00\\x00")"#,
            "request.duration None",
            r#"request.duration Some("\\x02\\x01\\x00\\x00\\x00\\x00\\x00\\x00")"#,
        ]
    );
}

#[test]
fn what_the_guest_stores_is_filter_state_under_wasm() {
    let host = scripted().build().unwrap();
    let request = script("rh:set_property=model,llama;sh:property=model;rh:property=nothing");
    let stream = host.request(request).unwrap();
    stream.respond(Response::new(200)).unwrap();
    assert_eq!(stream.filter_state("model").as_deref(), Some(&b"llama"[..]));
    assert_eq!(heard(&host, "property"), ["nothing None", "model Some(\"llama\")"]);
}

#[test]
fn an_environment_variable_and_standard_output_reach_their_ends() {
    let host = scripted().environment_variable("POD", "a").build().unwrap();
    host.request(script("rh:env=POD;rh:env=NONE;rh:print=hello out")).unwrap();
    assert_eq!(heard(&host, "env"), ["Ok(\"a\")", "Err(NotPresent)"]);
    assert_eq!(heard(&host, "hello"), ["out"]);
}
