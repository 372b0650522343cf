//! Any chunks and slices of a request and of an answer give the same body upstream, the same pick and the same counts.

use std::num::NonZeroUsize;

use dm_host::HttpMessage;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::world::{self, CHAT, assert_nothing_in_flight, picked, total};

const CONFIG: &str = r#"{"metrics": {"flush_interval_ms": 20},
    "model_rewrites": [{"name": "r", "model": "virtual", "targets": [{"model": "t"}]}]}"#;
const STREAM: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"ä\"}}]}\n\n\
    data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":3,\"total_tokens\":10}}\n\ndata: [DONE]\n\n";

tests! {
    any_cut_of_a_request_and_its_answer_is_counted_alike
    a_body_that_an_earlier_filter_held_is_rewritten_once
    a_request_of_single_bytes_holds_and_sends_on_what_came
}

mod scenarios {
    use super::*;

    /// A body in chunks that end at these places, each in slices of at most so many bytes.
    fn cut(message: HttpMessage, body: &str, places: &[prop::sample::Index], slice: NonZeroUsize) -> HttpMessage {
        let mut ends: Vec<usize> = places.iter().map(|place| place.index(body.len() + 1)).collect();
        ends.push(body.len());
        ends.sort_unstable();
        let starts = std::iter::once(0).chain(ends.iter().copied());
        let chunks: Vec<&[u8]> = starts.zip(&ends).map(|(start, end)| &body.as_bytes()[start..*end]).collect();
        message.body_chunks(chunks).slices(slice)
    }

    pub(super) fn any_cut_of_a_request_and_its_answer_is_counted_alike() {
        const CASES: u32 = 150;
        let host = world::informed(world::builder().filter(CONFIG).build().unwrap());
        let places = || vec(any::<prop::sample::Index>(), 0..6);
        let slice = (1_usize..40).prop_map(|bytes| NonZeroUsize::new(bytes).unwrap());
        let strategy = (places(), places(), slice, any::<[bool; 4]>());
        let run = std::cell::Cell::new(0);
        let mut runner = TestRunner::new(Config { cases: CASES, failure_persistence: None, ..Config::default() });
        let result = runner.run(&strategy, |(asked, answered, slice, [trailers, rewritten, streamed, ended])| {
            run.set(run.get() + 1);
            // A stream whose usage nobody asked for: the server is asked, and the client does not see it.
            let chat = if streamed { CHAT.replacen('{', "{\"stream\":true,", 1) } else { CHAT.to_owned() };
            let sent = if rewritten { chat.replace("\"m\"", "\"virtual\"") } else { chat.clone() };
            let mut expected = if rewritten { chat.replace("\"m\"", "\"t\"") } else { chat };
            if streamed {
                expected = expected.replacen('{', "{\"stream_options\":{\"include_usage\":true},", 1);
            }
            let mut request = cut(
                world::post("/v1/chat/completions").header("content-length", sent.len().to_string()),
                &sent,
                &asked,
                slice,
            );
            if trailers {
                request = request.trailer("x", "y");
            }
            let stream = host.request(request);
            let upstream = stream.upstream();
            prop_assert_eq!(String::from_utf8(upstream.body).unwrap(), expected.clone());
            prop_assert!(upstream.ended);
            prop_assert_eq!(stream.request_headers().text("content-length"), Some(expected.len().to_string()));
            stream.attempt(&picked(&stream));
            let (kind, body) =
                if streamed { ("text/event-stream", STREAM) } else { ("application/json", world::ANSWER) };
            let mut response = cut(world::answer(kind), body, &answered, slice);
            if ended {
                response = response.trailer("x", "y");
            }
            stream.respond(response);
            let seen: String = body.split_inclusive("\n\n").filter(|event| !event.contains("\"choices\":[]")).collect();
            prop_assert_eq!(String::from_utf8(stream.downstream().body).unwrap(), seen);
            prop_assert!(stream.hooks().ends_with(&["destroy"]));
            Ok(())
        });
        result.unwrap();
        let stats = assert_nothing_in_flight(&host);
        let run = run.get();
        assert_eq!(run, u64::from(CASES));
        assert_eq!(total(&stats, ";inference_objective_request_total"), run);
        assert_eq!(total(&stats, ";inference_objective_input_tokens_sum"), 7 * run);
        assert_eq!(total(&stats, ";inference_objective_output_tokens_sum"), 3 * run);
        assert_eq!(total(&stats, ";inference_objective_request_error_total"), 0, "{stats:#?}");
        assert_eq!(total(&stats, ";inference_objective_response_sizes_count"), run);
        host.shut_down().unwrap();
    }

    pub(super) fn a_body_that_an_earlier_filter_held_is_rewritten_once() {
        let host = world::informed(world::builder().filter(CONFIG).build().unwrap());
        let body = CHAT.replace("\"m\"", "\"virtual\"");
        let request = world::post("/v1/chat/completions").body_chunks(body.as_bytes().chunks(9)).replayed();
        let stream = host.request(request);
        assert_eq!(String::from_utf8(stream.upstream().body).unwrap(), CHAT.replace("\"m\"", "\"t\""));
    }

    pub(super) fn a_request_of_single_bytes_holds_and_sends_on_what_came() {
        let host = world::host();
        let stream =
            host.request(world::post("/v1/chat/completions").body_chunks(CHAT.as_bytes().chunks(1)).unfinished());
        stream.send_body("", true);
        assert_eq!(stream.upstream().body, CHAT.as_bytes());
        stream.client_reset();
        assert_nothing_in_flight(&host);
    }
}
