//! Several workers at once: nothing is lost, and totals are exact.

use crate::world::{self, assert_nothing_in_flight, picked, total};

tests! {
    totals_of_several_workers_are_exact
}

mod scenarios {
    use super::*;

    pub(super) fn totals_of_several_workers_are_exact() {
        const WORKERS: usize = 4;
        const EACH: u64 = if cfg!(miri) { 2 } else { 400 };
        let host = world::informed(world::builder().workers(4).build().unwrap());
        let main = std::thread::current().id();
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..WORKERS)
                .map(|index| {
                    let worker = host.worker(index);
                    scope.spawn(move || {
                        worker.run(move |worker| {
                            for number in 0..EACH {
                                let stream = worker.request(world::chat());
                                stream.attempt(&picked(&stream));
                                match number % 4 {
                                    0 => stream.client_reset(),
                                    1 => stream.upstream_reset(),
                                    2 => stream
                                        .respond(world::answer("text/event-stream").body_chunks(["data: [DONE]\n\n"])),
                                    _ => stream.respond(world::answer("application/json").body(world::ANSWER)),
                                }
                            }
                        });
                    })
                })
                .collect();
            // Meanwhile the main thread has its turns.
            while threads.iter().any(|thread| !thread.is_finished()) {
                host.run_for(std::time::Duration::from_millis(5));
            }
        });
        assert_eq!(std::thread::current().id(), main);
        let stats = assert_nothing_in_flight(&host);
        let all = EACH * WORKERS as u64;
        assert_eq!(total(&stats, ";inference_objective_request_total"), all, "{stats:#?}");
        assert_eq!(total(&stats, "error_code=Cancelled;inference_objective_request_error_total"), all / 4);
        assert_eq!(total(&stats, "error_code=UpstreamReset;inference_objective_request_error_total"), all / 4);
        assert_eq!(total(&stats, ";inference_objective_input_tokens_sum"), 7 * all / 4);
        // Who is reset before an answer has served nobody.
        assert_eq!(total(&stats, ";inpick_picks_total"), all / 2, "{stats:#?}");
        host.shut_down().unwrap();
    }
}
