//! Who is blamed when a request was tried at several endpoints.

use crate::host::Info;
use crate::scene::{
    IDLE, START_MICROS, address, answered, assert_stat, chat, hosts, listed_hosts, picker, request, stats,
};
use crate::shared::Shared;
use endpoint_picker::head::{RequestHead, ResponseHead};
use endpoint_picker::{Exchange, Timestamp};
use snapshot::Load;

/// A connection to an endpoint failed.
const CONNECTION_FAILURE: u64 = 1 << 5;
/// No pool has this host.
const OUTSIDER: u8 = 99;

/// How a request went, with places of the ranked list for hosts; [`OUTSIDER`] stands for itself.
struct Course {
    name: &'static str,
    tried: Option<&'static [u8]>,
    attempts: u64,
    /// `None`: nobody answered, and the last one's connection failed.
    answered_by: Option<u8>,
    blamed: &'static [u8],
}

const COURSES: [Course; 11] = [
    Course { name: "the first is down", tried: Some(&[0, 1]), attempts: 2, answered_by: Some(1), blamed: &[0] },
    Course { name: "two are down", tried: Some(&[0, 1, 2]), attempts: 3, answered_by: Some(2), blamed: &[0, 1] },
    Course { name: "one is passed over", tried: Some(&[0, 2]), attempts: 2, answered_by: Some(2), blamed: &[0] },
    Course { name: "the first is passed over", tried: Some(&[1]), attempts: 1, answered_by: Some(1), blamed: &[] },
    Course {
        name: "the first is tried twice",
        tried: Some(&[0, 0, 1]),
        attempts: 3,
        answered_by: Some(1),
        blamed: &[0],
    },
    Course { name: "nobody answers", tried: Some(&[0, 2]), attempts: 2, answered_by: None, blamed: &[0, 2] },
    Course {
        name: "an outsider answers",
        tried: Some(&[0, OUTSIDER]),
        attempts: 2,
        answered_by: Some(OUTSIDER),
        blamed: &[0],
    },
    Course { name: "only the last is named", tried: Some(&[2]), attempts: 3, answered_by: Some(2), blamed: &[0, 1] },
    Course {
        name: "of two, only the last is named",
        tried: Some(&[1]),
        attempts: 2,
        answered_by: None,
        blamed: &[0, 1],
    },
    Course { name: "the host cannot say", tried: None, attempts: 3, answered_by: Some(2), blamed: &[0, 1] },
    Course { name: "nor who was passed over", tried: None, attempts: 2, answered_by: Some(2), blamed: &[] },
];

#[test]
fn who_was_tried_and_did_not_answer_is_blamed_and_nobody_else() {
    for course in COURSES {
        let mut picker = picker(r#"{"unknown_model": "pass"}"#, &[None; 3], &[IDLE; 3]);
        let pairs = [(":method", "POST"), (":path", "/v1/chat/completions")];
        let (mut exchange, directive) = request(&mut picker, &mut Shared::default(), &pairs, Some(&chat("m")), 0);
        let ranked = hosts(&directive);
        let host = |place: u8| ranked.get(usize::from(place)).copied().unwrap_or(OUTSIDER);
        let tried =
            course.tried.map(|places| &*places.iter().map(|&place| address(host(place))).collect::<Vec<_>>().leak());
        let last = course.answered_by.or_else(|| course.tried?.last().copied()).unwrap();
        let (details, flags, status) = match course.answered_by {
            Some(_) => ("via_upstream", 0, "200"),
            None => ("upstream_reset_before_response_started{connection_failure}", CONNECTION_FAILURE, "503"),
        };
        let mut info = Info {
            micros: START_MICROS + 5_000,
            upstream: Some(address(host(last))),
            attempts: Some(course.attempts),
            tried,
            details: Some(details),
            flags: Some(flags),
        };
        let head = ResponseHead::read([(&b":status"[..], status.as_bytes())].into_iter());
        exchange.on_response_headers(&mut picker, &head, &mut info, true);
        let failures = stats(&mut picker);
        let mut blamed: Vec<&str> = failures
            .iter()
            .filter(|(name, count)| name.contains("reason=no_answer;inpick_endpoint_failures_total") && *count == 1)
            .map(|(name, _)| name.as_str())
            .collect();
        let mut expected: Vec<String> = course
            .blamed
            .iter()
            .map(|&place| {
                let address = address(host(place));
                format!("pool=default;endpoint={address};reason=no_answer;inpick_endpoint_failures_total")
            })
            .collect();
        blamed.sort_unstable();
        expected.sort_unstable();
        assert_eq!(blamed, expected, "{}", course.name);
    }
}

#[test]
fn a_fault_of_ours_settles_an_exchange_wherever_it_stands() {
    for stage in ["new", "reading", "sent", "answering"] {
        let mut picker = picker(r#"{"unknown_model": "pass"}"#, &[None; 3], &[IDLE; 3]);
        let now = Timestamp::from_micros(START_MICROS);
        let pairs = [(":method", "POST"), (":path", "/v1/chat/completions")];
        let head = RequestHead::read(pairs.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())));
        let (chat, mut exchange, mut info) = (chat("m"), Exchange::default(), Info::default());
        if stage != "new" {
            exchange.on_request_headers(&mut picker, &head, false, now);
        }
        let (begin, rest) = chat.as_bytes().split_at(10);
        exchange.on_request_body(&mut picker, [begin], false, &mut info);
        if !matches!(stage, "new" | "reading") {
            exchange.on_request_body(&mut picker, [rest], true, &mut info);
            exchange.pick(&mut picker, now);
        }
        if stage == "answering" {
            answered(&mut exchange, &mut picker, 1, &[]);
        }
        assert_eq!(exchange.is_settled(), stage == "new");
        // Once more changes nothing.
        for _ in 0..2 {
            exchange.on_fault(&mut picker, now);
            assert!(exchange.is_settled(), "{stage}");
        }
        let in_flight: u32 = picker.pool().endpoints().map(|(_, endpoint)| endpoint.in_flight().own()).sum();
        assert_eq!(in_flight, 0, "{stage}");
        let stats = stats(&mut picker);
        let suffix = match stage {
            // Nothing is known of it, not even whether it is one for a model.
            "new" => "outcome=Internal;inpick_load_only_requests_total",
            _ => "error_code=Internal;inference_objective_request_error_total",
        };
        let internal: u64 = stats.iter().filter(|(name, _)| name.ends_with(suffix)).map(|(_, count)| count).sum();
        assert_eq!(internal, 1, "{stage}: {stats:#?}");
    }
}

#[test]
fn each_attempt_of_a_request_goes_to_those_that_serve_its_model() {
    for (lists, expected, served, attempts, blamed) in [
        // The only one that serves it is tried again, and answers the second attempt.
        ([Some(&["n"][..]), Some(&["m"]), Some(&["m"])], &[1_u8, 1, 1][..], 1_u8, 2, &[][..]),
        // Two serve it: the one that was tried in between has failed.
        ([Some(&["n"]), Some(&["n"]), Some(&["m"])], &[1, 2, 1], 1, 3, &[2]),
        ([Some(&["n"]), Some(&["n"]), Some(&["m"])], &[1, 2, 1], 2, 2, &[1]),
    ] {
        let second = Load { waiting: Some(9), ..IDLE };
        let mut picker = picker("{}", &lists, &[IDLE, second, IDLE]);
        let pairs = [(":method", "POST"), (":path", "/v1/chat/completions")];
        let (mut exchange, directive) = request(&mut picker, &mut Shared::default(), &pairs, Some(&chat("n")), 0);
        assert_eq!(listed_hosts(&directive), expected);
        let mut info = Info {
            micros: START_MICROS + 5_000,
            upstream: Some(address(served)),
            attempts: Some(attempts),
            details: Some("via_upstream"),
            ..Info::default()
        };
        let head = ResponseHead::read([(&b":status"[..], &b"200"[..])].into_iter());
        exchange.on_response_headers(&mut picker, &head, &mut info, true);
        let stats = stats(&mut picker);
        assert_stat(&stats, &format!("pool=default;endpoint={};reason=retry;inpick_picks_total", address(served)), 1);
        let no_answer = |host: u8| {
            let name =
                format!("pool=default;endpoint={};reason=no_answer;inpick_endpoint_failures_total", address(host));
            stats.iter().any(|(stat, count)| *stat == name && *count == 1)
        };
        let found: Vec<u8> = (1..=3).filter(|&host| no_answer(host)).collect();
        assert_eq!(found, blamed, "{expected:?}, served by {served}");
    }
}
