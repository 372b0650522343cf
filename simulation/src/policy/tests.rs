use super::cache_aware::CacheAware;
use super::cost::{Lmetric, Oracle};
use super::endpoint_picker_defaults::EndpointPickerDefaults;
use super::plain::{LeastRequest, RoundRobin};
use super::*;
use crate::calibration::Calibration;
use crate::prompt::{Chat, Message, Sender, Tokenizer};

const TOKENIZER: Tokenizer = Tokenizer { bytes_per_token: 4.0 };

fn chat(text: &str) -> Chat {
    Chat {
        sender: Sender::default(),
        model: "m".into(),
        adapter: None,
        messages: vec![Message { role: "user", content: text.into() }],
        answer: "a".into(),
        output_tokens: 40,
        max_tokens: None,
        is_streamed: true,
    }
}

/// Where a policy sends these texts, one after the other, given pages and requests in flight that stay as they are.
fn picks(policy: &mut dyn Policy, engines: &[Engine], pages: &[(u32, f64, u32)], texts: &[&str]) -> Vec<usize> {
    let candidates: Vec<Candidate<'_>> = engines
        .iter()
        .zip(pages)
        .enumerate()
        .map(|(pod, (engine, &(waiting, kv_usage, in_flight)))| Candidate {
            pod,
            page: Page { waiting, kv_usage, ..Page::default() },
            in_flight,
            engine,
        })
        .collect();
    let mut rng = Rng::new(1);
    let pick = |text: &&str| {
        let chat = chat(text);
        let (body, prompt) = (chat.body(), chat.prompt(TOKENIZER));
        policy.pick(&Offer { model: &chat.model, body: &body, prompt: &prompt }, &candidates, &mut rng)
    };
    texts.iter().map(pick).collect()
}

fn engines(count: usize) -> Vec<Engine> {
    (0..count).map(|_| Engine::new(Calibration::INFERENCE_SIM, 0)).collect()
}

#[test]
fn round_robin_takes_turns_and_least_request_the_emptier_of_two() {
    let idle = [(0, 0.0, 0); 3];
    assert_eq!(picks(&mut RoundRobin::default(), &engines(3), &idle, &["a"; 4]), [1, 2, 0, 1]);
    let loads = [(0, 0.0, 5), (0, 0.0, 1)];
    let picked = picks(&mut LeastRequest, &engines(2), &loads, &["a"; 100]);
    let emptier = picked.iter().filter(|&&pod| pod == 1).count();
    // But where both draws are the fuller one: once in four.
    assert!((60..90).contains(&emptier), "{emptier}");
}

#[test]
fn the_endpoint_picker_weighs_queue_cache_and_prefix_as_its_source_says() {
    let text = "x".repeat(640);
    let mut policy = EndpointPickerDefaults::new(1_024);
    // Pod 1 has the shorter queue: 2 against 0.
    assert_eq!(picks(&mut policy, &engines(2), &[(9, 0.0, 0), (1, 0.0, 0)], &[&text]), [1]);
    // Now its prefix, 3, beats a queue that is shorter by whatever, 2.
    assert_eq!(picks(&mut policy, &engines(2), &[(0, 0.0, 0), (50, 0.0, 0)], &[&text]), [1]);
    // With the KV cache against it too it is 3 to 2 + 2 * 0.6.
    assert_eq!(picks(&mut policy, &engines(2), &[(0, 0.2, 0), (50, 0.8, 0)], &[&text]), [0]);
}

#[test]
fn cache_aware_follows_a_match_until_loads_are_far_apart() {
    let text = "x".repeat(640);
    let mut policy = CacheAware::default();
    assert_eq!(picks(&mut policy, &engines(2), &[(0, 0.0, 3), (0, 0.0, 2)], &[&text]), [1]);
    assert_eq!(picks(&mut policy, &engines(2), &[(0, 0.0, 0), (0, 0.0, 64)], &[&text]), [1]);
    assert_eq!(picks(&mut policy, &engines(2), &[(0, 0.0, 0), (0, 0.0, 65)], &[&text]), [0]);
}

#[test]
fn the_all_knowing_policies_see_caches_and_queues() {
    let text = "x".repeat(4_000);
    let mut warm = engines(2);
    warm[1].submit(0, chat(&text).prompt(TOKENIZER), 0);
    while let Some(due) = warm[1].next_due() {
        warm[1].step(due, &mut Vec::new());
    }
    let policies = || -> [Box<dyn Policy>; 2] { [Box::new(Lmetric), Box::new(Oracle::new(40.0))] };
    let idle = [(0, 0.0, 0); 2];
    for mut policy in policies() {
        assert_eq!(picks(policy.as_mut(), &warm, &idle, &[&text]), [1]);
    }
    // Forty others are there: the cache is not worth that wait.
    for request in 1..41 {
        warm[1].submit(request, chat(&format!("{request}{text}")).prompt(TOKENIZER), 1_000_000_000);
    }
    for mut policy in policies() {
        assert_eq!(picks(policy.as_mut(), &warm, &idle, &[&text]), [0]);
    }
}
