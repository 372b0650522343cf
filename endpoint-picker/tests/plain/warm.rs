//! A pool that has worked for a while: loads, what was learned of it, and which prompts were sent where. Tests, benches and examples
//! include this file.

use std::fmt::Write as _;
use std::net::SocketAddr;

use endpoint_picker::Timestamp;
use endpoint_picker::config::scan_options;
use endpoint_picker::learning::{Answer, Forecast};
use endpoint_picker::openai::{Api, PromptDigest, RequestScanner, Usage};
use endpoint_picker::pool::Pool;
use endpoint_picker::rng::Rng;
use endpoint_picker::scheduling::{PickRequest, Scheduler, model_key};
use snapshot::{EndpointIdentity, Load, Loads, Membership, PoolMembers, State};

/// When picks are made.
pub(crate) const NOW: Timestamp = Timestamp::from_micros(1_000_000_000);
/// The model that is asked for.
pub(crate) const MODEL: &str = "m";

/// Bytes of the prompt that most prompts here have in common.
const SYSTEM_BYTES: usize = 3_000;
/// Answers from which each endpoint's times were learned.
const ANSWERS: u64 = 20;
/// Prompts that each endpoint was sent.
const PROMPTS: u64 = 16;

/// The pool's members.
pub(crate) fn membership(endpoints: u32) -> Membership {
    let identity = |index: u32| {
        let [.., high, low] = index.to_be_bytes();
        EndpointIdentity::unnamed(SocketAddr::from(([10, 0, high, low], 8000)))
    };
    let endpoints = (0..endpoints).map(identity).collect();
    let pools = vec![PoolMembers { name: "default".into(), endpoints, ..PoolMembers::default() }];
    Membership { epoch: 1, version: 1, pools }
}

/// Loads that differ from endpoint to endpoint.
pub(crate) fn loads(endpoints: u32) -> Loads {
    let load = |index: u32| Load {
        state: State::Fresh,
        age_ms: Some(10),
        waiting: Some(index % 3),
        running: Some(index % 31),
        kv_cache_usage: Some(f64::from(index % 97) / 97.0),
        num_gpu_blocks: Some(8_192),
        block_size: Some(16),
        ..Load::default()
    };
    let endpoints = (0..endpoints).map(load).collect();
    Loads { epoch: 1, membership_version: 1, generation: 1, captured_at_ms: 1_000_000, endpoints, ..Loads::default() }
}

/// Body of a chat with `bytes` bytes of prompt: a system prompt of that number, and words of that user.
pub(crate) fn body(bytes: usize, system: u64, user: u64) -> Vec<u8> {
    let mut body = format!(r#"{{"model":"{MODEL}","messages":[{{"role":"system","content":""#);
    let mut words = |seed: u64, bytes: usize| {
        let mut rng = Rng::new(seed);
        let end = body.len() + bytes;
        while body.len() < end {
            let _ = write!(body, "{:x} ", rng.next_u64());
        }
        body.truncate(end);
        body.push_str(r#""},{"role":"user","content":""#);
    };
    words(system, SYSTEM_BYTES);
    words(1_000 + user, bytes.saturating_sub(SYSTEM_BYTES));
    body.push_str(r#"Which pod is it?"}]}"#);
    body.into_bytes()
}

/// What is known of that body's prompt.
pub(crate) fn prompt(body: &[u8]) -> (PromptDigest, u64) {
    let mut scanner = RequestScanner::new(Api::ChatCompletions, scan_options(true));
    for piece in body.chunks(256 * 1024) {
        scanner.feed(piece).unwrap();
    }
    let facts = scanner.finish().unwrap();
    (facts.prompt, facts.prompt_bytes)
}

/// A pool and what picks from it.
#[derive(Debug)]
pub(crate) struct Warm {
    pool: Pool,
    scheduler: Scheduler,
    digest: PromptDigest,
    prompt_bytes: u64,
}

impl Warm {
    /// That many endpoints. Two of them have all of a prompt of `bytes` bytes, one in four its system prompt.
    pub(crate) fn new(endpoints: u32, bytes: usize) -> Self {
        let mut pool = Pool::default();
        pool.install_membership(&membership(endpoints), "default");
        pool.install_loads(&loads(endpoints), NOW).unwrap();
        pool.set_others_in_flight((0..endpoints).map(|index| (index % 5, index % 7 * 100)));
        let endpoint_picker::Plugin::Filter(config) = endpoint_picker::Plugin::parse(b"").unwrap() else {
            unreachable!("the default configuration is the filter's")
        };
        let mut scheduler = Scheduler::default();
        scheduler.pool_installed(&pool, &config.profile);
        let members = pool.members().to_vec();
        for (place, &id) in (0_u64..).zip(&members) {
            for answer in 0..ANSWERS {
                let forecast = Forecast {
                    uncached_tokens: 100 * u32::try_from(answer).unwrap(),
                    cached_tokens: 700,
                    running: 3,
                    ..Forecast::default()
                };
                let after = 20_000 + 10_000 * answer + place;
                scheduler.first_token_came(id, &forecast, after);
                let usage = Usage { prompt_tokens: Some(800), completion_tokens: Some(50), ..Usage::default() };
                let total_micros = after + 500_000;
                let answer = Answer {
                    first_token_micros: Some(after),
                    total_micros,
                    usage,
                    prompt_bytes: 3_200,
                    model: model_key(MODEL),
                };
                scheduler.answer_ended(id, &forecast, &answer);
            }
            for user in 0..PROMPTS {
                let (digest, _) = prompt(&body(4_000, 1 + place % 4, place * PROMPTS + user));
                scheduler.prompt_sent(id, &digest.marks);
            }
        }
        let (digest, prompt_bytes) = prompt(&body(bytes, 1, u64::MAX / 2));
        for &id in members.iter().skip(1).take(2) {
            scheduler.prompt_sent(id, &digest.marks);
        }
        Self { pool, scheduler, digest, prompt_bytes }
    }

    /// The pool, who picks from it, and for what.
    pub(crate) fn parts(&mut self) -> (&mut Pool, &mut Scheduler, PickRequest<'_>) {
        let request = PickRequest {
            target_model: MODEL,
            prompt: Some(&self.digest),
            prompt_bytes: self.prompt_bytes,
            ..PickRequest::default()
        };
        (&mut self.pool, &mut self.scheduler, request)
    }
}
