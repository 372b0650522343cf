//! The bootstrap extension: initialization, timers, callouts, the admin page, shutdown.

use std::time::Duration;

use dm_host::{CallbackName, CalloutAnswer, Headers, Hooks, HostError, ModuleHost, ModuleHostBuilder, Refusal};

fn extension(configuration: &str) -> ModuleHostBuilder {
    ModuleHost::builder(Hooks::linked()).bootstrap(configuration).workers(3).patience(Duration::from_millis(50))
}

fn shown(host: &ModuleHost, what: &str) -> Option<u64> {
    host.metrics().value("guest", &[("what", what)])
}

fn answer(body: &str) -> CalloutAnswer {
    CalloutAnswer::Response { status: 200, headers: Headers::default(), body: body.into(), slice: 4 }
}

#[test]
fn timers_fire_on_demand_and_callouts_are_answered_afterwards() {
    let host = extension("").cluster("sidecar", |callout| {
        assert_eq!(callout.headers.text(":path").as_deref(), Some("/snapshot"));
        assert_eq!(callout.timeout, Duration::from_millis(500));
        answer("a snapshot")
    });
    let host = host.build().unwrap();
    assert_eq!((shown(&host, "validation"), shown(&host, "concurrency")), (Some(0), Some(3)));
    let fired = shown(&host, "fired").unwrap_or(0);
    host.fire_timers();
    host.fire_timers();
    assert_eq!(shown(&host, "fired"), Some(fired + 2));
    assert_eq!(shown(&host, "workers"), Some(3));
    assert_eq!((shown(&host, "sent"), shown(&host, "result"), shown(&host, "status")), (Some(0), Some(0), Some(200)));
    assert_eq!((shown(&host, "slices"), shown(&host, "bytes"), shown(&host, "headers")), (Some(3), Some(10), Some(1)));
    host.run_for(Duration::from_millis(5));
    assert_eq!(shown(&host, "fired"), Some(fired + 2), "it is due in a minute");
    host.shut_down().unwrap();
}

#[test]
fn callouts_fail_as_envoys_do() {
    for (configuration, sent) in [("no-host", 1), ("no-cluster", 2)] {
        let host = extension(configuration).cluster("sidecar", |_| answer("")).build().unwrap();
        host.fire_timers();
        assert_eq!((shown(&host, "sent"), shown(&host, "result")), (Some(sent), None), "{configuration}");
    }
    let host = extension("").cluster("sidecar", |_| CalloutAnswer::Reset).build().unwrap();
    host.fire_timers();
    assert_eq!((shown(&host, "result"), shown(&host, "headers")), (Some(1), Some(0)));
    host.refuse(Refusal::of(CallbackName::HttpCallout));
    host.fire_timers();
    assert_eq!(shown(&host, "sent"), Some(4));
}

#[test]
fn an_answer_may_be_long_in_coming() {
    let mut asked = 0;
    let late = move |_: &dm_host::Callout| {
        asked += 1;
        if asked < 3 { CalloutAnswer::Later } else { answer("late") }
    };
    let host = extension("").cluster("sidecar", late).build().unwrap();
    host.fire_timers();
    assert!(host.run_until(Duration::from_secs(5), |host| shown(host, "bytes") == Some(4)));
}

#[test]
fn the_admin_page_has_what_the_module_registered() {
    let host = extension("").build().unwrap();
    assert_eq!(host.admin("GET", "/guest/a?b").unwrap(), (200, b"GET /guest/a?b".to_vec()));
    assert_eq!(host.admin("GET", "/other"), None);
}

#[test]
fn initialization_is_completed_once() {
    assert!(matches!(extension("never-ready").build(), Err(HostError::NeverInitialized)));
    assert!(matches!(extension("ready-twice").build(), Err(HostError::InitializedAgain(2))));
    assert!(matches!(extension("refuse").build(), Err(HostError::BootstrapRefused(_))));
    let host = extension("").build().unwrap();
    assert_eq!(host.init_completions(), 1);
}

#[test]
fn shutdown_is_completed_once() {
    assert!(matches!(extension("never-done").build().unwrap().shut_down(), Err(HostError::Shutdown(0))));
    assert!(matches!(extension("done-twice").build().unwrap().shut_down(), Err(HostError::Shutdown(2))));
    let leaky = extension("leaky").build().unwrap().shut_down();
    assert!(matches!(&leaky, Err(HostError::Violations(all)) if all[0].contains("never deleted")), "{leaky:?}");
}

#[test]
fn validation_configures_and_serves_nothing() {
    let host = extension("").filter("plain").validating().build().unwrap();
    assert_eq!(shown(&host, "validation"), Some(1));
    host.shut_down().unwrap();
    let refused = ModuleHost::builder(Hooks::linked()).filter("refuse").validating().build();
    assert!(matches!(refused, Err(HostError::FilterRefused(why)) if why == "the guest is told to refuse"));
}

#[test]
fn hooks_that_nobody_asked_for_may_come() {
    let host = extension("").build().unwrap();
    host.call_unasked();
    host.shut_down().unwrap();
}
