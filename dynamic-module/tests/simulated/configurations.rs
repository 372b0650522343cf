//! Configurations: the same words as everywhere for what is wrong, and a destruction on any thread.

use dm_host::{HostError, HttpMessage};

use crate::world::{self, complete};

tests! {
    what_is_wrong_is_said_as_everywhere
    a_sidecar_without_the_filters_pool_is_refused
    what_belongs_to_the_other_part_is_refused
    a_configuration_dies_with_its_last_stream_on_a_worker
    validation_starts_nothing
    initialization_and_shutdown_are_completed_once
}

mod scenarios {
    use super::*;

    pub(super) fn what_is_wrong_is_said_as_everywhere() {
        for document in ["pool: 7\ntypo: 1\n", "{", r#"{"stale_after_ms": -1}"#, "- 1\n"] {
            let expected = endpoint_picker_config::parse(document.as_bytes()).unwrap_err().to_string();
            let refused = world::builder().filter(document).build();
            let Err(HostError::FilterRefused(words)) = refused else { panic!("{document}: {refused:?}") };
            assert!(words.contains(&expected), "{document}: {words:?} does not say {expected:?}");
        }
    }

    pub(super) fn a_sidecar_without_the_filters_pool_is_refused() {
        let document = r#"{"pool": "default", "sidecar": {"embedded": {"pool": ["other=static:127.0.0.1:1"]}}}"#;
        let refused = world::builder().filter(document).build();
        let told = r#"sidecar.embedded.pool: none is named "default", which is the filter's pool"#;
        let Err(HostError::FilterRefused(words)) = refused else { panic!("{refused:?}") };
        assert!(words.contains(told), "{words:?}");
    }

    pub(super) fn what_belongs_to_the_other_part_is_refused() {
        let swapped = world::builder().filter(r#"{"snapshot_service": {"cluster": "inpick-sidecar"}}"#).build();
        assert!(matches!(swapped, Err(HostError::FilterRefused(words)) if words.contains("snapshot_service")));
        let swapped = world::builder().bootstrap(r#"{"pool": "default"}"#).build();
        assert!(matches!(swapped, Err(HostError::BootstrapRefused(words)) if words.contains("snapshot_service")));
    }

    pub(super) fn a_configuration_dies_with_its_last_stream_on_a_worker() {
        let mut host = world::informed(world::builder().workers(2).build().unwrap());
        complete(&host);
        let held = host.worker(1).request(world::chat());
        host.replace_filter(r#"{"metrics": {"flush_interval_ms": 20}, "pool": "default"}"#).unwrap();
        held.attempt("10.0.0.1:8000");
        held.respond(world::answer("application/json").body(world::ANSWER));
        drop(held);
        // The new instance knows nobody until the main thread has had a turn.
        host.run_for(std::time::Duration::from_secs(1));
        complete(&host);
        host.drop_filter_on(0);
        let stats = world::assert_nothing_in_flight(&host);
        assert_eq!(stats[&format!("{}priority=0;inference_objective_request_total", world::MODEL)], 3, "{stats:#?}");
        host.shut_down().unwrap();
    }

    pub(super) fn validation_starts_nothing() {
        let host = world::builder().validating().build().unwrap();
        assert_eq!(host.calls(dm_host::CallbackName::TimerEnable), 0);
        host.shut_down().unwrap();
    }

    pub(super) fn initialization_and_shutdown_are_completed_once() {
        let host = world::host();
        assert_eq!(host.init_completions(), 1);
        let open = host.request(world::chat());
        assert_eq!(open.downstream(), dm_host::Forwarded::default());
        open.respond(HttpMessage::response(200));
        // The host complains of anything but one completion.
        host.shut_down().unwrap();
    }
}
