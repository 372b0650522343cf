use alloc::vec::Vec;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use snapshot::{EndpointIdentity, Membership, PoolMembers};

use super::*;
use crate::pool::Pool;
use crate::rng::Rng;

/// An engine whose times are known.
#[derive(Clone, Copy)]
struct Truth {
    fixed: f64,
    token: f64,
    slot: f64,
}

const TRUTH: Truth = Truth { fixed: 30_000.0, token: 250.0, slot: 900_000.0 };

fn ids() -> Vec<EndpointId> {
    let endpoints = (1..=3).map(|last| EndpointIdentity::unnamed(([10, 0, 0, last], 80).into())).collect();
    let pools = alloc::vec![PoolMembers { name: "p".into(), endpoints, ..PoolMembers::default() }];
    let mut pool = Pool::default();
    pool.install_membership(&Membership { epoch: 1, version: 1, pools }, "p");
    pool.members().to_vec()
}

fn draw(rng: &mut Rng) -> Forecast {
    let uncached_tokens = (rng.next_u64() % 2_000) as u32;
    let cached_tokens = (rng.next_u64() % 2_000) as u32;
    Forecast { uncached_tokens, cached_tokens, running: (rng.next_u64() % 8) as u32, ..Forecast::default() }
}

/// So many streamed answers of an engine, each up to a tenth later or earlier than it should.
fn teach(learner: &mut Learner, id: EndpointId, truth: Truth, answers: usize, rng: &mut Rng) {
    for _ in 0..answers {
        let forecast = draw(rng);
        let noise = 0.9 + 0.2 * (rng.next_u64() % 1_000) as f64 / 1_000.0;
        let first = (truth.fixed + truth.token * f64::from(forecast.uncached_tokens)) * noise;
        learner.first_token_came(id, &forecast, first as u64);
        let total_micros = (first + truth.slot * noise) as u64;
        let answer = Answer { first_token_micros: Some(first as u64), total_micros, ..Answer::default() };
        learner.answer_ended(id, &forecast, &answer);
    }
}

/// The largest relative error of what is expected of an engine for prompts that are not all cached.
fn error(learner: &Learner, id: EndpointId, truth: Truth) -> f64 {
    let rates = learner.rates(id);
    let errors = [200, 1_000, 2_000].map(|uncached_tokens| {
        let forecast = Forecast { uncached_tokens, running: 4, ..Forecast::default() };
        let expected = truth.fixed + truth.token * f64::from(uncached_tokens);
        (rates.compute_micros(&forecast) / expected - 1.0).abs()
    });
    errors.into_iter().fold(0.0, f64::max)
}

#[test]
fn before_the_first_answer_the_prior_counts() {
    let (learner, id) = (Learner::default(), ids()[0]);
    assert!(learner.is_new());
    let rates = learner.rates(id);
    let prior = Prior::default();
    assert_eq!(
        (rates.fixed, rates.uncached, rates.slot),
        (prior.fixed_micros, prior.micros_per_token, prior.slot_micros)
    );
    assert_eq!((learner.cache_part(id), learner.bytes_per_token(7)), (1.0, DEFAULT_BYTES_PER_TOKEN));
}

#[test]
fn a_prior_that_is_wrong_by_four_times_is_unlearned() {
    for factor in [0.25, 1.0, 4.0] {
        let prior = Prior {
            fixed_micros: TRUTH.fixed * factor,
            micros_per_token: TRUTH.token * factor,
            slot_micros: TRUTH.slot * factor,
        };
        let (mut learner, id, mut rng) = (Learner::new(prior), ids()[0], Rng::new(1));
        teach(&mut learner, id, TRUTH, 60, &mut rng);
        let error = error(&learner, id, TRUTH);
        assert!(error < 0.15, "factor {factor}: {error}");
        let slot = learner.rates(id).slot / (TRUTH.slot + TRUTH.fixed);
        assert!((0.7..1.6).contains(&slot), "factor {factor}: slot {slot}");
    }
}

#[test]
fn mixed_hardware_is_told_apart_and_a_new_endpoint_begins_with_the_pool() {
    let (mut learner, ids, mut rng) = (Learner::default(), ids(), Rng::new(2));
    let slow = Truth { fixed: 60_000.0, token: 900.0, ..TRUTH };
    for _ in 0..100 {
        teach(&mut learner, ids[0], TRUTH, 1, &mut rng);
        teach(&mut learner, ids[1], slow, 1, &mut rng);
    }
    assert!(error(&learner, ids[0], TRUTH) < 0.25, "{:?}", learner.rates(ids[0]));
    assert!(error(&learner, ids[1], slow) < 0.2, "{:?}", learner.rates(ids[1]));
    let new = learner.rates(ids[2]).uncached;
    assert!((TRUTH.token..slow.token).contains(&new), "between the two: {new}");
}

#[test]
fn a_slowdown_is_seen_within_a_dozen_answers_and_one_outlier_moves_little() {
    let (mut learner, id, mut rng) = (Learner::default(), ids()[0], Rng::new(3));
    teach(&mut learner, id, TRUTH, 200, &mut rng);
    let before = learner.rates(id).uncached;
    learner.first_token_came(id, &draw(&mut rng), 60_000_000);
    let after = learner.rates(id).uncached;
    assert!(after / before < 1.25, "{before} {after}");
    teach(&mut learner, id, TRUTH, 50, &mut rng);
    let slow = Truth { fixed: TRUTH.fixed * 3.0, token: TRUTH.token * 3.0, ..TRUTH };
    teach(&mut learner, id, slow, 12, &mut rng);
    let rates = learner.rates(id);
    assert!(rates.uncached > 2.2 * TRUTH.token && rates.uncached < 4.0 * TRUTH.token, "{rates:?}");
    teach(&mut learner, id, TRUTH, 60, &mut rng);
    assert!(error(&learner, id, TRUTH) < 0.35, "it recovers: {:?}", learner.rates(id));
}

#[test]
fn answers_without_a_stream_teach_the_same() {
    let (mut learner, id, mut rng) = (Learner::default(), ids()[0], Rng::new(4));
    for _ in 0..200 {
        let forecast = draw(&mut rng);
        let tokens = 1 + rng.next_u64() % 20;
        let first = TRUTH.fixed + TRUTH.token * f64::from(forecast.uncached_tokens);
        let total_micros = (first + 10_000.0 * (tokens - 1) as f64) as u64;
        let usage = Usage { completion_tokens: Some(tokens), ..Usage::default() };
        learner.answer_ended(id, &forecast, &Answer { total_micros, usage, ..Answer::default() });
    }
    let rates = learner.rates(id);
    assert!((rates.uncached / TRUTH.token - 1.0).abs() < 0.3, "{rates:?}");
}

#[test]
fn a_wait_for_a_slot_teaches_nothing_of_prompts() {
    let (mut learner, id, mut rng) = (Learner::default(), ids()[0], Rng::new(5));
    teach(&mut learner, id, TRUTH, 100, &mut rng);
    let before = learner.rates(id);
    for _ in 0..100 {
        let forecast = Forecast { slot_wait_milli: 4_000, ..draw(&mut rng) };
        let first = 4.0 * TRUTH.slot + TRUTH.fixed + TRUTH.token * f64::from(forecast.uncached_tokens);
        learner.first_token_came(id, &forecast, first as u64);
    }
    let after = learner.rates(id);
    assert!((after.uncached / before.uncached - 1.0).abs() < 0.3, "{before:?} {after:?}");
    let wait = after.slot_wait_micros(&Forecast { slot_wait_milli: 4_000, ..Forecast::default() });
    assert!((wait / (4.0 * TRUTH.slot) - 1.0).abs() < 0.3, "{wait}");
}

#[test]
fn nothing_it_is_told_makes_a_time_negative_infinite_or_unbounded() {
    let (mut learner, ids, mut rng) = (Learner::default(), ids(), Rng::new(6));
    let extremes = [0, 1, u32::MAX];
    for _ in 0..3_000 {
        let mut any = || extremes[(rng.next_u64() % 3) as usize];
        let forecast = Forecast {
            uncached_tokens: any(),
            cached_tokens: any(),
            ahead_tokens: any(),
            running: any(),
            slot_wait_milli: any(),
            ..Forecast::default()
        };
        let micros = [0, 1, u64::MAX][(rng.next_u64() % 3) as usize];
        let id = ids[(rng.next_u64() % 3) as usize];
        learner.first_token_came(id, &forecast, micros);
        let usage = Usage {
            prompt_tokens: Some(micros),
            completion_tokens: Some(micros),
            cached_tokens: Some(micros),
            ..Usage::default()
        };
        let first_token_micros = (rng.next_u64() % 2 == 0).then_some(micros / 2);
        let answer = Answer { first_token_micros, total_micros: micros, usage, prompt_bytes: micros, model: micros };
        learner.answer_ended(id, &forecast, &answer);
        for &id in &ids {
            let Rates { fixed, uncached, cached, ahead, running, slot } = learner.rates(id);
            let all = [fixed, uncached, cached, ahead, running, slot];
            assert!(all.iter().all(|rate| rate.is_finite() && *rate >= 0.0), "{all:?}");
        }
        assert!((0.5..=64.0).contains(&learner.mean_bytes_per_token()));
    }
}

#[test]
fn a_cache_that_loses_more_than_predicted_counts_as_smaller_and_grows_again() {
    let (mut learner, id) = (Learner::default(), ids()[0]);
    let guess = Guess { known_tokens: 500, ..Guess::default() };
    let forecast = Forecast { cached_tokens: 500, uncached_tokens: 100, guess, ..Forecast::default() };
    let mut report = |cached_tokens, times| {
        for _ in 0..times {
            let usage = Usage { cached_tokens: Some(cached_tokens), ..Usage::default() };
            learner.answer_ended(id, &forecast, &Answer { total_micros: 100_000, usage, ..Answer::default() });
        }
        learner.cache_part(id)
    };
    assert_eq!(report(500, 10), 1.0);
    let lost = report(0, 30);
    assert!(lost < 0.5, "{lost}");
    assert!(report(500, 100) > lost);
    assert_eq!(report(500, 1_000), 1.0);
}

#[test]
fn bytes_of_a_token_are_learned_by_model() {
    let mut learner = Learner::default();
    let id = ids()[0];
    for _ in 0..200 {
        for (model, prompt_bytes) in [(1, 3_000), (2, 6_000)] {
            let usage = Usage { prompt_tokens: Some(1_000), ..Usage::default() };
            let answer = Answer { total_micros: 50_000, usage, prompt_bytes, model, ..Answer::default() };
            learner.answer_ended(id, &Forecast::default(), &answer);
        }
    }
    assert!((learner.bytes_per_token(1) - 3.0).abs() < 0.1 && (learner.bytes_per_token(2) - 6.0).abs() < 0.1);
    assert!((3.0..6.0).contains(&learner.bytes_per_token(3)));
}

#[test]
fn guesses_count_only_where_others_send_and_are_learned() {
    let (mut learner, id) = (Learner::default(), ids()[0]);
    assert_eq!((learner.family_chance(), learner.conversation_part()), (0.0, 0.0));
    learner.peers_seen();
    assert!(learner.family_chance() > 0.5);
    let guess = Guess { family_tokens: 800, conversation_tokens: Some(1_200), ..Guess::default() };
    let forecast = Forecast { uncached_tokens: 1_300, guess, ..Forecast::default() };
    for _ in 0..200 {
        let usage = Usage { cached_tokens: Some(0), ..Usage::default() };
        learner.answer_ended(id, &forecast, &Answer { total_micros: 400_000, usage, ..Answer::default() });
    }
    assert!(learner.family_chance() < 0.05 && learner.conversation_part() < 0.05);
}

#[test]
fn who_looked_slow_once_is_asked_again_and_nothing_changes_while_nobody_is_asked() {
    let (mut learner, ids, mut rng) = (Learner::default(), ids(), Rng::new(7));
    let slow = Truth { fixed: TRUTH.fixed * 4.0, token: TRUTH.token * 4.0, ..TRUTH };
    for _ in 0..50 {
        teach(&mut learner, ids[0], TRUTH, 1, &mut rng);
        teach(&mut learner, ids[1], slow, 1, &mut rng);
    }
    let before = learner.rates(ids[1]);
    assert!(before.uncached > 3.0 * TRUTH.token);
    assert_eq!(learner.rates(ids[1]), before);
    teach(&mut learner, ids[0], TRUTH, 400, &mut rng);
    let forgotten = learner.rates(ids[1]).uncached;
    assert!(forgotten < 1.8 * TRUTH.token, "{forgotten}");
    // One answer is enough to see that it is as slow as before.
    teach(&mut learner, ids[1], slow, 1, &mut rng);
    let seen = learner.rates(ids[1]).uncached;
    assert!(seen > 2.5 * TRUTH.token, "{seen}");
}

#[test]
fn tokens_that_no_text_of_the_request_has_say_nothing_of_bytes_a_token() {
    let mut learner = Learner::default();
    for _ in 0..100 {
        // An image behind an address, or a conversation that the server keeps: more tokens than the body has bytes.
        let usage = Usage { prompt_tokens: Some(4_000), ..Usage::default() };
        let answer = Answer { usage, prompt_bytes: 80, model: 1, total_micros: 50_000, ..Answer::default() };
        learner.answer_ended(ids()[0], &Forecast::default(), &answer);
    }
    assert_eq!(learner.bytes_per_token(1), DEFAULT_BYTES_PER_TOKEN);
    assert_eq!(learner.mean_bytes_per_token(), DEFAULT_BYTES_PER_TOKEN);
}
