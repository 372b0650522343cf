//! Modules that do not load, and what each is told.

use host_sim::{CompiledModule, Error, Host, VmName};

use crate::support::{guest, scripted};

const MARKER: &str = r#"(func (export "proxy_abi_version_0_2_1"))"#;

fn wat(body: &str) -> Vec<u8> {
    format!("(module {body})").into_bytes()
}

#[test]
fn an_unknown_import_is_an_error_that_names_it() {
    let imports = r#"
        (import "env" "proxy_log" (func (param i32 i32 i32) (result i32)))
        (import "env" "proxy_get_upstream_hosts" (func (param i32) (result i32)))
        (import "env" "proxy_done" (func (param i64)))
        (import "wbindgen" "memory" (memory 1))"#;
    let error = CompiledModule::from_bytes(&wat(&format!("{imports}{MARKER}"))).unwrap_err();
    let Error::UnknownImports { imports } = &error else { panic!("{error}") };
    assert_eq!(imports.len(), 3);
    let text = error.to_string();
    assert!(text.contains("env.proxy_get_upstream_hosts with type"), "{text}");
    assert!(text.contains("env.proxy_done with type"), "{text}");
    assert!(text.contains("wbindgen.memory, which is no function"), "{text}");
}

#[test]
fn a_module_without_the_abi_marker_is_refused() {
    assert!(matches!(CompiledModule::from_bytes(&wat("")), Err(Error::UnknownAbi)));
    assert!(matches!(CompiledModule::from_bytes(b"no wasm"), Err(Error::Compile(_))));
    let missing = CompiledModule::from_file("/nonexistent.wasm");
    assert!(matches!(missing, Err(Error::ReadModule { .. })));
    assert!(matches!(Host::builder().build(), Err(Error::NoModule)));
}

#[test]
fn a_module_without_callbacks_lets_everything_through() {
    let host = Host::builder().module_bytes(wat(MARKER)).build().unwrap();
    let stream = host.request(host_sim::Request::post("/").body("abc")).unwrap();
    assert_eq!(stream.request_body(), b"abc");
    assert_eq!(stream.crossings().total(), 0);
}

#[test]
fn a_trap_at_the_start_is_an_error_with_its_reason() {
    let trap = r#"(func (export "_initialize") unreachable)"#;
    let error = Host::builder().module_bytes(wat(&format!("{MARKER}{trap}"))).build().unwrap_err();
    let Error::Start { vm, message } = &error else { panic!("{error}") };
    assert_eq!(vm, "worker0");
    assert!(message.contains("unreachable"), "{message}");
}

#[test]
fn only_logging_is_allowed_while_the_module_starts() {
    let error = scripted().environment_variable("CALL_IN_MAIN", "1").build().unwrap_err();
    assert!(error.to_string().contains("proxy_define_metric is not allowed while the module starts"), "{error}");
}

#[test]
fn a_refused_configuration_is_an_error_that_names_the_vm() {
    let refused = scripted().plugin_configuration("conf:refuse;conf:time").build().unwrap_err();
    let text = refused.to_string();
    assert!(text.contains("worker0 refused its configuration in proxy_on_configure: it returned false"), "{text}");
    assert!(text.contains("last log line: time"), "{text}");
    let trapped = scripted().service("").vm_configuration("start:panic").build().unwrap_err();
    assert!(trapped.to_string().contains("service refused its configuration in proxy_on_vm_start"), "{trapped}");
    let started = scripted().vm_configuration("start:refuse").build().unwrap_err();
    assert!(matches!(started, Error::Refused { callback: "proxy_on_vm_start", .. }), "{started}");
    let canary = scripted().canary().plugin_configuration("conf:refuse").build().unwrap_err();
    assert!(canary.to_string().starts_with("canary"), "{canary}");
}

#[test]
fn a_guest_that_reads_outside_of_its_memory_gets_a_status() {
    // Asks for a header by a name that lies outside of memory, and stores the status as what it returns itself.
    let module = r#"
        (import "env" "proxy_get_header_map_value" (func $get (param i32 i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 1)
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
            (drop (call $get (i32.const 0) (i32.const 65530) (i32.const 10) (i32.const 0) (i32.const 4)))
            (drop (call $get (i32.const 9) (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 4)))
            (drop (call $get (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 65534) (i32.const 4)))
            i32.const 0)"#;
    let host = Host::builder().module_bytes(wat(&format!("{module}{MARKER}"))).build().unwrap();
    let request = host_sim::Request::get("/").header("", "nameless");
    let stream = host.request(request).unwrap();
    let statuses: Vec<_> = stream.trace().iter().filter_map(|record| record.status).collect();
    use host_sim::Status::{BadArgument, InvalidMemoryAccess};
    assert_eq!(statuses, [InvalidMemoryAccess, BadArgument, InvalidMemoryAccess]);
}

#[test]
fn many_hosts_share_one_compiled_module() {
    let hosts: Vec<_> = (0..3).map(|_| scripted().workers(2).build().unwrap()).collect();
    assert!(hosts.iter().all(|host| host.failure(VmName::Worker(1)).is_none()));
    assert!(guest().imports().contains(&"env.proxy_get_buffer_bytes".to_owned()));
    assert!(guest().exports().contains(&"proxy_on_memory_allocate".to_owned()));
}
