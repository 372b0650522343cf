//! Requests that go on before their bodies are whole.

use endpoint_picker::exchange::{Outbound, Refused};
use endpoint_picker::head::{RequestHead, ResponseHead};
use endpoint_picker::rng::Rng;
use endpoint_picker::{Directive, EndpointPicker, Exchange, Timestamp};

use crate::host::Info;
use crate::scene::{IDLE, START_MICROS, address, assert_stat, hosts, membership, picker, stats};
use crate::shared::Shared;
use snapshot::{Load, Loads};

const CHAT: &str = "/v1/chat/completions";
const ANSWER: &str = r#"{"model":"m","choices":[{"message":{"content":"ab"}}],"usage":{"prompt_tokens":500,"completion_tokens":3,"total_tokens":503,"prompt_tokens_details":{"cached_tokens":0}}}"#;
/// What lets a body go on whatever model it names.
const ANY_MODEL: &str = r#""missing_model":"pass","unknown_model":"pass""#;

fn config(early: u64, more: &str) -> String {
    let comma = if more.is_empty() { "" } else { "," };
    format!(r#"{{"early_pick_bytes":{early}{comma}{more}}}"#)
}

fn two(config: &str) -> EndpointPicker {
    picker(config, &[Some(&["m"]), Some(&["m"])], &[IDLE, IDLE])
}

/// Text that does not repeat, of so many words of ten bytes.
fn words(family: u32, count: u32) -> String {
    (0..count).map(|word| format!("{family:03}-{word:05} ")).collect()
}

fn model_first(text: &str) -> String {
    format!(r#"{{"model":"m","messages":[{{"role":"user","content":"{text}"}}],"max_tokens":7}}"#)
}

fn model_last(text: &str) -> String {
    format!(r#"{{"messages":[{{"role":"user","content":"{text}"}}],"max_tokens":7,"model":"m"}}"#)
}

/// One request on its way, as a binding carries it.
struct Upload<'p> {
    picker: &'p mut EndpointPicker,
    exchange: Exchange,
    micros: u64,
    /// Bytes shown, and passed unread, when it was sent; and how it was changed.
    sent: Option<(usize, Outbound)>,
    shown: usize,
}

impl<'p> Upload<'p> {
    fn begin(picker: &'p mut EndpointPicker, path: &str, length: Option<usize>) -> Self {
        let head = RequestHead {
            method: b"POST",
            path: path.as_bytes(),
            content_length: length.map(|length| length as u64),
            ..RequestHead::default()
        };
        let mut exchange = Exchange::default();
        let now = Timestamp::from_micros(START_MICROS);
        assert_eq!(exchange.on_request_headers(picker, &head, false, now), Directive::Wait);
        Self { picker, exchange, micros: START_MICROS, sent: None, shown: 0 }
    }

    fn info(&mut self) -> Info {
        self.micros += 100;
        Info { micros: self.micros, ..Info::default() }
    }

    /// One piece of the body; true: it is held.
    fn piece(&mut self, bytes: &[u8], end: bool) -> bool {
        let mut info = self.info();
        self.shown += bytes.len();
        if self.sent.is_some() && !self.exchange.reads_request() {
            self.exchange.on_request_size(self.picker, bytes.len() as u64, end, &mut info);
            return false;
        }
        let (head, tail) = bytes.split_at(bytes.len() / 3);
        let mut directive = self.exchange.on_request_body(self.picker, [head, tail], end, &mut info);
        if directive == Directive::Pick {
            self.exchange.find_maker(self.picker, &mut Shared::default());
            directive = self.exchange.pick(self.picker, Timestamp::from_micros(info.micros));
        }
        match directive {
            Directive::Wait => true,
            Directive::Send(outbound) => {
                assert!(self.sent.replace((self.shown, outbound)).is_none(), "sent twice");
                false
            }
            Directive::Continue if self.sent.is_some() => false,
            other => panic!("{other:?} at {}", self.shown),
        }
    }

    /// The whole body in pieces of so many bytes. Gives after how many it was sent.
    fn pieces(&mut self, body: &str, size: usize) -> usize {
        let count = body.len().div_ceil(size);
        for (place, piece) in body.as_bytes().chunks(size).enumerate() {
            self.piece(piece, place + 1 == count);
        }
        self.sent.as_ref().unwrap().0
    }

    fn response_headers(&mut self, status: u16, kind: &str, by: u8, attempts: u64) {
        let mut info = Info {
            upstream: Some(address(by)),
            attempts: Some(attempts),
            details: Some("via_upstream"),
            ..self.info()
        };
        let status = status.to_string();
        let pairs = [(":status", status.as_str()), ("content-type", kind)];
        let head = ResponseHead::read(pairs.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())));
        self.exchange.on_response_headers(self.picker, &head, &mut info, false);
    }

    fn response_body(&mut self, body: &str, end: bool) {
        let mut info = self.info();
        if self.exchange.reads_response() {
            self.exchange.on_response_body(self.picker, [body.as_bytes()], &mut info, end);
        } else {
            self.exchange.on_response_size(self.picker, body.len() as u64, false, &mut info, end);
        }
    }

    /// Answered by the endpoint that was picked.
    fn answer(&mut self) {
        let by = self.picked();
        self.response_headers(200, "application/json", by, 1);
        self.response_body(ANSWER, true);
        self.log(0);
    }

    fn log(&mut self, flags: u64) {
        let mut info = Info { flags: Some(flags), ..self.info() };
        self.exchange.on_log(self.picker, &mut info);
        assert!(self.exchange.is_settled());
        assert_eq!(self.in_flight(), 0);
    }

    fn in_flight(&self) -> u32 {
        self.picker.pool().endpoints().map(|(_, endpoint)| endpoint.in_flight().own()).sum()
    }

    /// The host that was picked.
    fn picked(&self) -> u8 {
        hosts(&Directive::Send(self.sent.as_ref().unwrap().1.clone()))[0]
    }
}

fn outcome(stats: &[(String, u64)], outcome: &str) {
    assert_stat(stats, &format!("outcome={outcome};inpick_request_bodies_total"), 1);
    let all = stats.iter().filter(|(name, _)| name.ends_with("inpick_request_bodies_total"));
    assert_eq!(all.map(|(_, count)| count).sum::<u64>(), 1, "{stats:#?}");
}

/// What must be counted alike. Times differ, since an early request is given to the pod earlier; and between endpoints that are as good, a
/// hash of what was known decides.
fn comparable(stats: Vec<(String, u64)>) -> Vec<(String, u64)> {
    let stats = stats.into_iter().filter(|(name, _)| !name.contains("duration"));
    let mut stats: Vec<_> = stats.map(|(name, value)| (name.replace("10.0.0.2", "10.0.0.1"), value)).collect();
    stats.sort();
    stats
}

#[test]
fn a_long_body_goes_on_at_the_threshold_and_is_counted_as_one_that_was_held() {
    for body in [model_first(&words(1, 200)), model_first(&"wörter \\n ".repeat(300))] {
        for size in [1, 97, 512, 700, body.len()] {
            for length in [Some(body.len()), None] {
                let mut counted = Vec::new();
                for early in [0, 512] {
                    let mut picker = two(&config(early, ""));
                    let mut upload = Upload::begin(&mut picker, CHAT, length);
                    let sent = upload.pieces(&body, size);
                    // A body that came at once was whole before anything could have been gained.
                    let expected =
                        if early == 0 || size == body.len() { body.len() } else { 512_usize.div_ceil(size) * size };
                    assert_eq!(sent, expected, "in pieces of {size}");
                    upload.answer();
                    counted.push((comparable(stats(&mut picker)), picker.prefix_index().len()));
                }
                let [held, early] = &mut counted[..] else { panic!() };
                assert_eq!(held, early, "in pieces of {size}");
                outcome(&early.0, "parsed");
                let labels = "model_name=m;target_model_name=m;";
                assert_stat(&early.0, &format!("{labels}inference_objective_request_sizes_sum"), body.len() as u64);
            }
        }
    }
}

/// A body of members in any order, with what a parser may stumble over.
fn any_body(rng: &mut Rng) -> String {
    let mut pick = |choices: &[&str]| choices[usize::try_from(rng.below(choices.len() as u64)).unwrap()].to_owned();
    let text = pick(&["héllo ", r"\u00e9\n ", "plain words ", r#"\"model\":\"x\" "#]).repeat(40);
    let mut members = vec![
        pick(&[
            r#""model":"m""#,
            r#""mod\u0065l" : "\u006d""#,
            r#""model":"n","model":"m""#,
            r#""model":null,"model":"m""#,
        ]),
        format!(r#""messages":[{{"role":"system","content":"{text}"}},{{"role":"user","content":"{text}"}}]"#),
        pick(&[r#""stream":true"#, r#""stream":false"#, r#""x":[1,{"model":"deep"},"y"]"#, r#""x":1e5"#]),
        pick(&[r#""tools":[{"name":"a tool"}]"#, r#""cache_salt":"s""#, r#""max_tokens":9"#, r#""y":"z""#]),
    ];
    let mut body = Vec::new();
    while !members.is_empty() {
        body.push(members.swap_remove(usize::try_from(rng.below(members.len() as u64)).unwrap()));
    }
    format!("{{{}}}", body.join(", "))
}

#[test]
fn early_and_held_give_the_same_record_whatever_the_body_and_its_cuts() {
    let mut early_ones = 0;
    for seed in 0..400 {
        let mut rng = Rng::new(seed);
        let body = any_body(&mut rng);
        let early = 1 + rng.below(600);
        let settings = ["", ANY_MODEL][usize::try_from(rng.below(2)).unwrap()];
        let size = usize::try_from(1 + rng.below(300)).unwrap();
        let length = (rng.below(2) == 0).then_some(body.len());
        let mut counted = Vec::new();
        for early in [0, early] {
            let mut picker = two(&config(early, settings));
            let mut upload = Upload::begin(&mut picker, CHAT, length);
            early_ones += usize::from(upload.pieces(&body, size) < body.len());
            upload.answer();
            counted.push(comparable(stats(&mut picker)));
        }
        assert_eq!(counted[0], counted[1], "seed {seed}, at {early}, in pieces of {size}: {body}");
    }
    assert!(early_ones > 200, "{early_ones}");
}

#[test]
fn a_body_up_to_the_threshold_is_held_whatever_its_pieces() {
    let body = model_first(&words(1, 40));
    let mut picker = two(&config(body.len() as u64, ""));
    for length in [Some(body.len()), None] {
        let mut upload = Upload::begin(&mut picker, CHAT, length);
        assert_eq!(upload.exchange.next_look(), if length.is_some() { None } else { Some(body.len() as u64) });
        assert_eq!(upload.pieces(&body, 10), body.len());
        assert!(!upload.exchange.reads_request());
        upload.answer();
    }
    let long = model_first(&words(1, 41));
    let mut upload = Upload::begin(&mut picker, CHAT, Some(long.len()));
    assert!(upload.pieces(&long, 10) < long.len());
}

#[test]
fn a_model_that_matters_and_comes_last_holds_the_body() {
    let body = model_last(&words(1, 200));
    let rewrites = format!(r#"{ANY_MODEL},"model_rewrites":[{{"name":"r","model":"x","targets":[{{"model":"y"}}]}}]"#);
    let cases: [(&str, &[Option<&[&str]>]); 5] = [
        ("", &[Some(&["m"]), Some(&["m"])]),
        (r#""missing_model":"pass""#, &[Some(&["m"]), Some(&["m"])]),
        (r#""unknown_model":"pass""#, &[None, None]),
        (&rewrites, &[None, None]),
        (ANY_MODEL, &[Some(&["m", "n"]), Some(&["m"])]),
    ];
    for (settings, lists) in cases {
        let mut picker = picker(&config(512, settings), lists, &[IDLE, IDLE]);
        let mut upload = Upload::begin(&mut picker, CHAT, Some(body.len()));
        assert_eq!(upload.pieces(&body, 100), body.len(), "{settings}");
        upload.answer();
    }
}

#[test]
fn a_model_that_makes_no_difference_may_come_last_and_is_named_by_the_rest_or_by_the_answer() {
    let body = model_last(&words(1, 200));
    for (rest, named_by) in [("read", "parsed"), ("pass", "unread")] {
        let settings = format!(r#"{ANY_MODEL},"early_pick_rest":"{rest}""#);
        let mut picker = two(&config(512, &settings));
        let mut upload = Upload::begin(&mut picker, CHAT, Some(body.len()));
        assert_eq!(upload.pieces(&body, 100), 600);
        upload.answer();
        let stats = stats(&mut picker);
        outcome(&stats, named_by);
        assert_stat(&stats, "model_name=m;target_model_name=m;priority=0;inference_objective_request_total", 1);
        let sum = "model_name=m;target_model_name=m;inference_objective_request_sizes_sum";
        assert_stat(&stats, sum, body.len() as u64);
    }
}

#[test]
fn a_rest_that_is_no_body_is_the_pods_to_refuse_and_is_counted() {
    let body = model_first(&words(1, 200));
    let (start, rest) = body.split_at(900);
    let garbage = format!("\u{1}{rest}");
    let cut_short = &rest[..rest.len() - 1];
    let another = rest.replace("\"max_tokens\"", "\"model\":7,\"max_tokens\"");
    for (rest, expected) in [(garbage.as_str(), "malformed"), (cut_short, "malformed"), (&another, "invalid")] {
        let mut picker = two(&config(512, ""));
        let mut upload = Upload::begin(&mut picker, CHAT, None);
        assert!(!upload.piece(start.as_bytes(), false));
        for piece in rest.as_bytes().chunks(100) {
            assert!(!upload.piece(piece, false));
        }
        assert!(!upload.piece(b"", true));
        let by = upload.picked();
        upload.response_headers(400, "application/json", by, 1);
        upload.response_body(r#"{"error":{"message":"no"}}"#, true);
        upload.log(0);
        let stats = stats(&mut picker);
        outcome(&stats, expected);
        let errors =
            "model_name=m;target_model_name=m;error_code=ModelServerRejected;inference_objective_request_error_total";
        assert_stat(&stats, errors, 1);
        let sum = "model_name=m;target_model_name=m;inference_objective_request_sizes_sum";
        assert_stat(&stats, sum, (start.len() + rest.len()) as u64);
    }
}

#[test]
fn a_rest_that_is_broken_before_the_request_is_sent_is_refused() {
    let mut picker = two(&config(64, ""));
    let mut exchange = Exchange::default();
    let head = RequestHead { method: b"POST", path: CHAT.as_bytes(), ..RequestHead::default() };
    let now = Timestamp::from_micros(START_MICROS);
    exchange.on_request_headers(&mut picker, &head, false, now);
    let body = model_first(&words(1, 100)).replace("max_tokens\":7", "max_tokens\":x");
    let directive = exchange.on_request_body(&mut picker, [body.as_bytes()], false, &mut Info::default());
    assert!(matches!(directive, Directive::Reply(reply) if reply.status == 400));
    outcome(&stats(&mut picker), "malformed");
}

#[test]
fn an_answer_may_come_before_the_rest() {
    let body = model_first(&words(1, 200));
    for late_end in [false, true] {
        let mut picker = two(&config(512, ""));
        let mut upload = Upload::begin(&mut picker, CHAT, Some(body.len()));
        upload.piece(&body.as_bytes()[..600], false);
        let by = upload.picked();
        upload.response_headers(413, "application/json", by, 1);
        assert!(!upload.piece(&body.as_bytes()[600..700], false));
        if late_end {
            assert!(!upload.piece(&body.as_bytes()[700..], true));
        }
        upload.response_body(r#"{"error":{"message":"too long"}}"#, true);
        // Whatever still comes changes nothing.
        assert!(!upload.piece(&body.as_bytes()[700..], true));
        upload.log(0);
        let stats = stats(&mut picker);
        outcome(&stats, if late_end { "parsed" } else { "incomplete" });
        assert_stat(&stats, "model_name=m;target_model_name=m;priority=0;inference_objective_request_total", 1);
    }
}

#[test]
fn a_client_that_leaves_in_the_middle_leaves_nothing_behind() {
    let body = model_first(&words(1, 200));
    for answered in [false, true] {
        let mut picker = two(&config(512, ""));
        let mut upload = Upload::begin(&mut picker, CHAT, Some(body.len()));
        upload.piece(&body.as_bytes()[..900], false);
        assert_eq!(upload.in_flight(), 1);
        if answered {
            let by = upload.picked();
            upload.response_headers(200, "text/event-stream", by, 1);
        }
        upload.log(1 << 18);
        assert_eq!(picker.accounts().running().count(), 0);
        outcome(&stats(&mut picker), "incomplete");
    }
}

#[test]
fn an_end_may_come_with_trailers_or_without_bytes() {
    let body = model_first(&words(1, 200));
    for (rest, trailers) in [("read", true), ("read", false), ("pass", true), ("pass", false)] {
        let mut picker = two(&config(512, &format!(r#""early_pick_rest":"{rest}""#)));
        let mut upload = Upload::begin(&mut picker, CHAT, None);
        for piece in body.as_bytes().chunks(100) {
            upload.piece(piece, false);
        }
        let mut info = upload.info();
        if trailers {
            assert_eq!(upload.exchange.on_request_trailers(upload.picker, &mut info), Directive::Continue);
        } else {
            upload.piece(b"", true);
        }
        upload.answer();
        outcome(&stats(&mut picker), if rest == "read" { "parsed" } else { "unread" });
    }
}

#[test]
fn what_is_held_is_spliced_and_the_length_goes_with_it() {
    let rules = r#""model_rewrites":[{"name":"r","targets":[{"model":"a longer name"}]}]"#;
    let body = model_first(&words(1, 200));
    let renamed = body.replace("\"m\"", "\"a longer name\"");
    for length in [Some(body.len()), None] {
        let mut picker = two(&config(512, &format!("{ANY_MODEL},{rules}")));
        let mut upload = Upload::begin(&mut picker, CHAT, length);
        let sent = upload.pieces(&body, 100);
        assert_eq!(sent, 600);
        let (_, outbound) = upload.sent.clone().unwrap();
        assert_eq!(outbound.content_length, length.map(|_| renamed.len() as u64));
        let mut received = outbound.splice.unwrap().apply(&body.as_bytes()[..sent]);
        received.extend_from_slice(&body.as_bytes()[sent..]);
        assert_eq!(received, renamed.as_bytes());
        upload.answer();
        let stats = stats(&mut picker);
        outcome(&stats, "parsed");
        let labels = "model_name=m;target_model_name=a longer name;priority=0;";
        assert_stat(&stats, &format!("{labels}inference_objective_request_total"), 1);
    }
}

#[test]
fn a_second_model_behind_the_one_that_it_went_by_is_for_the_pod_to_judge_and_no_label() {
    let twice = model_first(&words(1, 200)).replace("\"max_tokens\"", "\"model\":\"n\",\"max_tokens\"");
    let rules = r#""model_rewrites":[{"name":"r","model":"m","targets":[{"model":"a longer name"}]}]"#;
    for (rules, lists, target) in
        [(rules, [None; 2], "a longer name"), (r#""unknown_model":"pass""#, [Some(&["m"][..]); 2], "m")]
    {
        let mut picker = picker(&config(512, rules), &lists, &[IDLE, IDLE]);
        let mut upload = Upload::begin(&mut picker, CHAT, Some(twice.len()));
        upload.pieces(&twice, 100);
        upload.answer();
        let stats = stats(&mut picker);
        outcome(&stats, "invalid");
        let labels = format!("model_name=m;target_model_name={target};priority=0;");
        assert_stat(&stats, &format!("{labels}inference_objective_request_total"), 1);
    }
}

#[test]
fn a_response_that_may_continue_another_is_held_until_it_says_which() {
    let text = words(1, 200);
    let first = format!(r#"{{"model":"m","previous_response_id":"resp_1","input":"{text}"}}"#);
    let last = format!(r#"{{"model":"m","input":"{text}","previous_response_id":"resp_1"}}"#);
    for (settings, body, is_early) in [("", &first, true), ("", &last, false), (r#""max_response_ids":0"#, &last, true)]
    {
        let mut picker = two(&config(512, settings));
        let mut upload = Upload::begin(&mut picker, "/v1/responses", Some(body.len()));
        assert_eq!(upload.pieces(body, 100) < body.len(), is_early, "{settings} {body}");
    }
}

#[test]
fn a_body_is_held_whose_length_decides_who_takes_it() {
    let body = model_first(&words(1, 200));
    let limits = |limits: [Option<u32>; 2]| {
        let mut picker = two(&config(512, ""));
        let mut membership = membership(&[Some(&["m"]), Some(&["m"])]);
        membership.version = 2;
        for (model, limit) in membership.pools[0].models.iter_mut().zip(limits) {
            model.max_model_len = limit;
        }
        picker.install_membership(&membership);
        let loads = Loads { epoch: 1, membership_version: 2, endpoints: vec![IDLE, IDLE], ..Loads::default() };
        picker.install_loads(&loads, Timestamp::from_micros(START_MICROS)).unwrap();
        let mut upload = Upload::begin(&mut picker, CHAT, Some(body.len()));
        upload.pieces(&body, 100)
    };
    assert_eq!(limits([Some(4_096), Some(4_096)]), 600);
    assert_eq!(limits([Some(4_096), None]), body.len());
}

#[test]
fn a_prompt_that_several_endpoints_share_is_held_until_it_differs() {
    let mut picker = two(&config(4_096, ""));
    let shared = words(1, 1_200);
    let conversations: Vec<String> = [2, 3].map(|own| format!("{shared}{}", words(own, 3_000))).into();
    let mut homes = Vec::new();
    for conversation in &conversations {
        // Both endpoints get the shared part: the other one is busy.
        let busy = Load { waiting: Some(400), running: Some(400), ..IDLE };
        let loads = if homes.first() == Some(&1) { vec![busy, IDLE] } else { vec![IDLE, busy] };
        let loads = Loads { epoch: 1, membership_version: 1, endpoints: loads, ..Loads::default() };
        picker.install_loads(&loads, Timestamp::from_micros(START_MICROS)).unwrap();
        let body = model_first(conversation);
        let mut upload = Upload::begin(&mut picker, CHAT, Some(body.len()));
        // Nobody has it, or one: no more needs to be known.
        assert_eq!(upload.pieces(&body, 1_000), 5_000);
        homes.push(upload.picked());
        upload.answer();
    }
    assert_ne!(homes[0], homes[1]);
    let loads = Loads { epoch: 1, membership_version: 1, endpoints: vec![IDLE, IDLE], ..Loads::default() };
    picker.install_loads(&loads, Timestamp::from_micros(START_MICROS)).unwrap();
    for (conversation, home) in conversations.iter().zip(&homes) {
        let body = model_first(&format!("{conversation} and more"));
        let mut upload = Upload::begin(&mut picker, CHAT, Some(body.len()));
        // The first look behind what they share.
        assert_eq!(upload.pieces(&body, 1_000), 17_000);
        assert_eq!(upload.picked(), *home);
        upload.answer();
    }
    // All of both conversations but their last words was expected to be cached.
    let stats = stats(&mut picker);
    let bytes = stats.iter().find(|(name, _)| name.ends_with("prefix_indexer_hit_bytes_sum")).unwrap().1;
    assert!(bytes > 2 * 39_000, "{bytes} of {}", 2 * conversations[0].len());
}

#[test]
fn a_rest_that_nobody_reads_is_taken_for_what_followed_the_same_beginning() {
    let mut picker = two(&config(512, r#""early_pick_rest":"pass""#));
    for turn in [300, 320] {
        let body = model_first(&words(1, turn));
        let mut upload = Upload::begin(&mut picker, CHAT, Some(body.len()));
        upload.piece(&body.as_bytes()[..700], false);
        assert!(!upload.exchange.reads_request());
        upload.piece(&body.as_bytes()[700..], true);
        upload.answer();
    }
    let stats = stats(&mut picker);
    let bytes = stats.iter().find(|(name, _)| name.ends_with("prefix_indexer_hit_bytes_sum")).unwrap().1;
    assert!((2_600..=3_000).contains(&bytes), "{bytes}");
}

#[test]
fn tools_behind_the_prompt_do_not_hide_it() {
    let mut picker = two(&config(512, ""));
    let tools = format!(r#""tools":[{{"name":"{}"}}]"#, words(9, 100));
    let body = |turn: u32| format!(r#"{{"model":"m","messages":["{}"],{tools}}}"#, words(1, turn));
    let mut homes = Vec::new();
    for turn in [200, 210, 220] {
        let body = body(turn);
        let mut upload = Upload::begin(&mut picker, CHAT, Some(body.len()));
        assert_eq!(upload.pieces(&body, 100), 600);
        homes.push(upload.picked());
        upload.answer();
    }
    assert!(homes.iter().all(|home| *home == homes[0]), "{homes:?}");
    // It is found by its tools, too, when it is held.
    let body = body(230);
    let mut upload = Upload::begin(&mut picker, CHAT, Some(body.len()));
    assert_eq!(upload.pieces(&body, body.len()), body.len());
    assert_eq!(upload.picked(), homes[0]);
}

#[test]
fn the_time_of_a_slow_upload_is_not_the_endpoints() {
    let body = model_first(&words(1, 2_000));
    let mut picker = two(&config(512, ""));
    let mut upload = Upload::begin(&mut picker, CHAT, Some(body.len()));
    upload.piece(&body.as_bytes()[..600], false);
    let by = usize::from(upload.picked() - 1);
    let id = upload.picker.pool().members()[by];
    let prefill = |upload: &Upload<'_>| {
        let now = Timestamp::from_micros(upload.micros);
        upload.picker.pool().endpoint(id).unwrap().prefill().own_tokens(now)
    };
    // Two seconds in which the endpoint has nothing to compute yet, and is not late.
    upload.micros += 2_000_000;
    assert_eq!(prefill(&upload), 0);
    upload.piece(&body.as_bytes()[600..], true);
    assert!(prefill(&upload) > 1_000, "{}", prefill(&upload));
    let before = upload.picker.learner().rates(id);
    for _ in 0..20 {
        upload.answer();
        let picker = upload.picker;
        upload = Upload::begin(picker, CHAT, Some(body.len()));
        upload.piece(&body.as_bytes()[..600], false);
        upload.micros += 2_000_000;
        upload.piece(&body.as_bytes()[600..], true);
    }
    let after = upload.picker.learner().rates(id);
    assert!(after.slot <= before.slot.max(100_000.0), "{} {}", before.slot, after.slot);
}

#[test]
fn a_retry_takes_the_whole_prompt_along() {
    let body = model_first(&words(1, 300));
    for ended_before in [false, true] {
        let mut picker = two(&config(512, ""));
        let mut upload = Upload::begin(&mut picker, CHAT, Some(body.len()));
        upload.piece(&body.as_bytes()[..600], false);
        let second = 3 - upload.picked();
        if ended_before {
            upload.piece(&body.as_bytes()[600..], true);
        }
        upload.response_headers(200, "application/json", second, 2);
        if !ended_before {
            upload.piece(&body.as_bytes()[600..], true);
        }
        upload.response_body(ANSWER, true);
        upload.log(0);
        let stats = stats(&mut picker);
        assert_stat(
            &stats,
            "pool=default;endpoint=10.0.0.1:8000;reason=retry;inpick_picks_total",
            u64::from(second == 1),
        );
        assert_stat(
            &stats,
            "pool=default;endpoint=10.0.0.2:8000;reason=retry;inpick_picks_total",
            u64::from(second == 2),
        );
    }
}

#[test]
fn a_rest_that_the_host_does_not_hand_out_still_passes() {
    let body = model_first(&words(1, 200));
    let mut picker = two(&config(512, ""));
    let mut upload = Upload::begin(&mut picker, CHAT, Some(body.len()));
    upload.piece(&body.as_bytes()[..600], false);
    assert!(upload.exchange.reads_request());
    let now = Timestamp::from_micros(upload.micros);
    assert_eq!(upload.exchange.on_refused(upload.picker, Refused::Body, now), Directive::Continue);
    assert!(!upload.exchange.reads_request());
    upload.piece(&body.as_bytes()[600..], true);
    upload.answer();
    let stats = stats(&mut picker);
    outcome(&stats, "unreadable");
    let sum = "model_name=m;target_model_name=m;inference_objective_request_sizes_sum";
    assert_stat(&stats, sum, body.len() as u64);
}

#[test]
fn a_form_goes_on_once_its_model_is_known() {
    let part = |name: &str, value: &str| format!("--B\r\nContent-Disposition: form-data; {name}\r\n\r\n{value}\r\n");
    let file = part(r#"name="file"; filename="a.wav""#, &"RIFF".repeat(500));
    let model = part(r#"name="model""#, "m");
    for (body, is_early) in [(format!("{model}{file}--B--\r\n"), true), (format!("{file}{model}--B--\r\n"), false)] {
        let mut picker = two(&config(512, ""));
        let head = RequestHead {
            method: b"POST",
            path: b"/v1/audio/transcriptions",
            content_type: Some(b"multipart/form-data; boundary=B"),
            content_length: Some(body.len() as u64),
            ..RequestHead::default()
        };
        let mut exchange = Exchange::default();
        let now = Timestamp::from_micros(START_MICROS);
        assert_eq!(exchange.on_request_headers(&mut picker, &head, false, now), Directive::Wait);
        let mut upload = Upload { picker: &mut picker, exchange, micros: START_MICROS, sent: None, shown: 0 };
        assert_eq!(upload.pieces(&body, 100) < body.len(), is_early);
        // Nothing of a file is needed.
        upload.answer();
        outcome(&stats(&mut picker), if is_early { "unread" } else { "parsed" });
    }
}
