//! Workers are threads; streams may be driven from any.

use dm_host::{Hooks, HttpMessage, ModuleHost};

use crate::support::asking;

#[test]
fn streams_of_several_workers_run_at_once_and_add_up() {
    const EACH: u64 = if cfg!(miri) { 4 } else { 500 };
    let host = ModuleHost::builder(Hooks::linked()).filter("plain").workers(3).build().unwrap();
    std::thread::scope(|scope| {
        for index in 0..3 {
            let worker = host.worker(index);
            scope.spawn(move || {
                worker.run(|worker| {
                    for _ in 0..EACH {
                        let stream = worker.request(asking("hold").body_chunks(["a", "b"]));
                        stream.respond(HttpMessage::response(200).body("c"));
                    }
                });
            });
        }
    });
    assert_eq!(host.metrics().value("requests", &[("model", "m")]), Some(3 * EACH));
}

#[test]
#[should_panic(expected = "on the worker")]
fn a_panic_on_a_worker_is_one_of_the_test() {
    let host = ModuleHost::builder(Hooks::linked()).filter("plain").build().unwrap();
    host.worker(0).run(|_| panic!("on the worker"));
}
