//! Metrics: defined at configuration, labelled, counted.

use dm_host::HttpMessage;

use crate::support::{asking, host, noted};

#[test]
fn counts_of_several_workers_add_up_under_their_labels() {
    let host = host();
    for worker in [0, 1, 0] {
        let stream = host.worker(worker).request(asking(""));
        assert_eq!(noted(&stream, "worker"), Some(worker.to_string()));
        stream.respond(HttpMessage::response(200));
    }
    assert_eq!(host.metrics().value("requests", &[("model", "m")]), Some(3));
    let shown: Vec<String> = host.metrics().iter().map(|(series, value)| format!("{series} {value}")).collect();
    assert_eq!(shown, ["requests{model=\"m\"} 3"]);
}

#[test]
fn nothing_is_defined_once_the_configuration_stands() {
    // From a worker it is also a call of the wrong thread, which the next test is about.
    let host = host();
    let stream = host.request(asking("define"));
    assert_eq!(noted(&stream, "result").as_deref(), Some("3"));
    assert_eq!(host.take_violations().len(), 1);
}

#[test]
fn wrong_labels_and_unknown_ids_are_told_apart() {
    let host = host();
    let stream = host.request(asking("labels"));
    assert_eq!(noted(&stream, "results").as_deref(), Some("[2, 1, 1]"));
    assert_eq!(host.metrics().iter().count(), 0);
}
