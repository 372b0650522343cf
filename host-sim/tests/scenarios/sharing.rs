//! What VMs of one host share: stats, data, queues; and the service and the canary.

use std::time::Duration;

use host_sim::VmName;

use crate::support::{heard, script, scripted};

#[test]
fn one_name_is_one_stat_for_all_vms_and_each_definition_a_new_id() {
    let host = scripted().workers(2).build().unwrap();
    host.request(script("rh:count=c;rh:count_by=c,2;rh:count_by=c,0;rh:gauge=g,5").worker(0)).unwrap();
    host.request(script("rh:count=c;rh:gauge=g,7;rh:histogram=h,3").worker(1)).unwrap();
    let stats = host.stats();
    assert_eq!(stats.counter("c"), Some(4));
    assert_eq!(stats.gauge("g"), Some(7));
    assert_eq!(stats.histogram("h"), Some(&[3][..]));
    assert_eq!(stats.counter("other"), None);
    assert_eq!(heard(&host, "count_by"), ["8 Ok(())", "12 Err(BadArgument)"]);
    assert_eq!(heard(&host, "gauge"), ["5 Ok(5)", "5 Ok(7)"]);
}

#[test]
fn a_worker_reads_what_the_service_wrote() {
    let host =
        scripted().vm_id("shared").workers(2).service("conf:tick_every=100;tick:put=snapshot,v1").build().unwrap();
    assert_eq!(host.vms(), [VmName::Service, VmName::Worker(0), VmName::Worker(1)]);
    host.request(script("rh:get=snapshot")).unwrap();
    host.advance(Duration::from_millis(100));
    host.request(script("rh:get=snapshot").worker(1)).unwrap();
    assert_eq!(heard(&host, "get"), ["None cas None", "Some(\"v1\") cas Some(1)"]);
    assert_eq!(host.shared_data("snapshot").as_deref(), Some(&b"v1"[..]));
    host.set_shared_data("snapshot", "v2");
    host.request(script("rh:get=snapshot")).unwrap();
    assert_eq!(heard(&host, "get")[2], "Some(\"v2\") cas Some(2)");
}

#[test]
fn a_stale_cas_number_loses() {
    let host = scripted().build().unwrap();
    host.request(script("rh:put=k,a,0;rh:put=k,b,1;rh:put=k,c,1;rh:get=k")).unwrap();
    assert_eq!(heard(&host, "put"), ["Ok(())", "Ok(())", "Err(CasMismatch)"]);
    assert_eq!(heard(&host, "get"), ["Some(\"b\") cas Some(2)"]);
}

#[test]
fn a_queue_wakes_the_vm_that_registered_it() {
    let host = scripted().service("conf:queue=work").workers(1).build().unwrap();
    host.request(script("rh:enqueue=work,job;rh:enqueue=nothing,job")).unwrap();
    let ready: Vec<_> = host
        .logs()
        .into_iter()
        .filter(|line| line.text.starts_with("ready"))
        .map(|line| (line.vm, line.text))
        .collect();
    assert_eq!(ready, [(VmName::Service, "ready Ok(Some([106, 111, 98]))".to_owned())]);
    assert_eq!(heard(&host, "enqueue"), ["no queue"]);
}

#[test]
fn the_service_may_have_a_root_id_of_its_own() {
    let host = scripted()
        .root_id("filter")
        .service("conf:property=plugin_root_id")
        .service_root_id("poller")
        .plugin_configuration("conf:property=plugin_root_id")
        .build()
        .unwrap();
    assert_eq!(heard(&host, "property"), ["plugin_root_id Some(\"poller\")", "plugin_root_id Some(\"filter\")"]);
}

#[test]
fn a_canary_leaves_its_stats_and_nothing_else() {
    let host = scripted().canary().plugin_configuration("conf:count=started;conf:tick_every=10").build().unwrap();
    assert_eq!(host.stats().counter("started"), Some(2));
    host.advance(Duration::from_millis(10));
    assert_eq!(heard(&host, "tick"), ["1"]);
}
