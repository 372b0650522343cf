use super::*;

const MS: Duration = Duration::from_millis(1);

/// Ten milliseconds a step, one a prompt token, no jitter.
fn config() -> EngineConfig {
    EngineConfig {
        max_num_seqs: 4,
        max_num_batched_tokens: 1024,
        max_model_len: 1024,
        block_size: 16,
        num_gpu_blocks: 101,
        prefix_caching: true,
        max_loras: 2,
        latency: Latency {
            cost: CostModel::Steps { step: 10 * MS, decode_per_sequence: MS },
            prefill_per_token: MS,
            jitter: 0.0,
            speed: 1.0,
        },
    }
}

fn request(prompt_tokens: u32, output_tokens: u32) -> GenerationRequest {
    GenerationRequest {
        prompt: Prompt { tokens: prompt_tokens, blocks: Vec::new() },
        output_tokens,
        max_tokens: Some(output_tokens),
        adapter: None,
        finish_reason: FinishReason::Length,
        token_events: true,
    }
}

fn with_blocks(prompt_tokens: u32, output_tokens: u32, family: u64) -> GenerationRequest {
    let mut request = request(prompt_tokens, output_tokens);
    request.prompt.blocks = (0..u64::from(prompt_tokens / 16)).map(|block| family * 1000 + block).collect();
    request
}

fn adapted(name: &str) -> GenerationRequest {
    GenerationRequest { adapter: Some(name.into()), ..request(4, 8) }
}

fn run(engine: &mut Engine, until: Duration) -> Vec<Event> {
    let mut events = Vec::new();
    engine.advance(until, &mut events);
    events
}

fn finished(events: &[Event]) -> Vec<SequenceId> {
    events
        .iter()
        .filter_map(|event| match event {
            Event::Finished { id, .. } => Some(*id),
            Event::Token { .. } => None,
        })
        .collect()
}

#[test]
fn tokens_come_when_their_steps_end() {
    let mut engine = Engine::new(config(), 0);
    let id = engine.submit(Duration::ZERO, request(20, 3));
    assert!(run(&mut engine, 29 * MS).is_empty());
    assert_eq!(run(&mut engine, 30 * MS), [Event::Token { id, index: 0 }]);
    assert_eq!(run(&mut engine, 41 * MS), [Event::Token { id, index: 1 }]);
    assert_eq!(run(&mut engine, 52 * MS), [Event::Finished { id, generated: 3, cached_tokens: 0 }]);
    assert_eq!(engine.next_event(), None);
}

#[test]
fn a_fuller_batch_decodes_slower() {
    let mut engine = Engine::new(config(), 0);
    for _ in 0..4 {
        engine.submit(Duration::ZERO, request(1, 2));
    }
    run(&mut engine, 14 * MS);
    assert_eq!(engine.next_event(), Some(28 * MS));
}

#[test]
fn requests_beyond_the_slots_wait_their_turn() {
    let mut engine = Engine::new(config(), 0);
    for _ in 0..6 {
        engine.submit(Duration::ZERO, request(10, 5));
    }
    run(&mut engine, MS);
    let load = engine.load();
    assert_eq!((load.running, load.waiting, load.deferred), (4, 2, 0));
    let events = run(&mut engine, Duration::from_secs(10));
    assert_eq!(finished(&events), [0, 1, 2, 3, 4, 5]);
    let queue = &engine.stats().request_queue_time;
    assert_eq!(queue.count(), 6);
    assert!(queue.sum() > 0.1, "two requests waited for a whole answer");
}

#[test]
fn a_long_prompt_is_computed_in_pieces_of_the_token_budget() {
    let mut engine = Engine::new(EngineConfig { max_num_batched_tokens: 100, ..config() }, 0);
    engine.submit(Duration::ZERO, request(250, 1));
    run(&mut engine, 110 * MS);
    assert_eq!(engine.next_event(), Some(220 * MS));
    let events = run(&mut engine, 280 * MS);
    assert_eq!(finished(&events), [0]);
}

#[test]
fn usage_follows_the_blocks_that_sequences_hold() {
    let mut engine = Engine::new(config(), 0);
    engine.submit(Duration::ZERO, request(160, 20));
    run(&mut engine, MS);
    assert!((engine.load().kv_cache_usage - 0.10).abs() < 1e-9);
    run(&mut engine, Duration::from_secs(10));
    assert!(engine.load().kv_cache_usage.abs() < 1e-9);
}

#[test]
fn out_of_blocks_the_latest_sequence_is_preempted_and_still_finishes() {
    let mut engine = Engine::new(EngineConfig { num_gpu_blocks: 13, max_model_len: 192, ..config() }, 0);
    for _ in 0..3 {
        engine.submit(Duration::ZERO, request(60, 60));
    }
    let mut events = Vec::new();
    let mut most_waiting = 0;
    let mut now = Duration::ZERO;
    while now < Duration::from_secs(10) {
        now += 5 * MS;
        engine.advance(now, &mut events);
        let load = engine.load();
        assert!(load.kv_cache_usage <= 1.0);
        most_waiting = most_waiting.max(load.waiting);
    }
    assert_eq!(finished(&events), [0, 1, 2]);
    assert!(engine.stats().preemptions > 0);
    assert!(most_waiting > 0);
    assert_eq!(engine.stats().generation_tokens, 180);
    assert!(engine.stats().request_num_preemptions.sum() >= 1.0);
    let tokens = events.iter().filter(|event| matches!(event, Event::Token { .. }));
    assert_eq!(tokens.count(), 177, "no token is sent twice after a preemption");
}

#[test]
fn a_known_prefix_shortens_the_prefill() {
    let mut engine = Engine::new(config(), 0);
    engine.submit(Duration::ZERO, with_blocks(160, 1, 1));
    run(&mut engine, 170 * MS);
    let second = engine.submit(Duration::from_secs(1), with_blocks(170, 1, 1));
    let events = run(&mut engine, Duration::from_secs(1) + 20 * MS);
    assert_eq!(events, [Event::Finished { id: second, generated: 1, cached_tokens: 160 }]);
    let stats = engine.stats();
    assert_eq!((stats.prefix_cache_queries, stats.prefix_cache_hits), (330, 160));
    assert_eq!((stats.prompt_tokens, stats.prompt_tokens_cached), (330, 160));
}

#[test]
fn the_last_token_of_a_prompt_is_always_computed() {
    let mut engine = Engine::new(config(), 0);
    for second in 0..2 {
        engine.submit(Duration::from_secs(second), with_blocks(160, 1, 1));
        run(&mut engine, Duration::from_millis(second * 1000 + 500));
    }
    assert_eq!(engine.stats().prefix_cache_hits, 144);
}

#[test]
fn old_prefixes_give_way_to_new_ones() {
    let mut engine = Engine::new(EngineConfig { num_gpu_blocks: 11, max_model_len: 160, ..config() }, 0);
    for (second, family) in [1, 2, 1].into_iter().enumerate() {
        engine.submit(Duration::from_secs(second as u64), with_blocks(130, 1, family));
        run(&mut engine, Duration::from_millis(second as u64 * 1000 + 900));
    }
    let hits = engine.stats().prefix_cache_hits;
    assert!(hits < 128, "most of the first prompt's blocks went to the second: {hits}");
}

#[test]
fn a_full_set_of_adapters_defers_others_but_not_the_base_model() {
    let mut engine = Engine::new(config(), 0);
    for name in ["a", "b", "c"] {
        engine.submit(Duration::ZERO, adapted(name));
    }
    let base = engine.submit(Duration::ZERO, request(4, 8));
    run(&mut engine, MS);
    let load = engine.load();
    assert_eq!((load.running, load.waiting, load.deferred), (3, 1, 1));
    let events = run(&mut engine, Duration::from_secs(5));
    assert_eq!(finished(&events), [0, 1, base, 2]);
}

#[test]
fn old_sets_of_adapters_stay_in_the_log() {
    let mut engine = Engine::new(config(), 0);
    engine.submit(Duration::ZERO, adapted("a"));
    run(&mut engine, Duration::from_secs(1));
    engine.submit(Duration::from_secs(1), adapted("b"));
    engine.submit(Duration::from_secs(1), adapted("a"));
    run(&mut engine, Duration::from_secs(2));
    let names: Vec<&str> = engine.adapter_log().iter().map(|(names, _)| names.as_str()).collect();
    assert_eq!(names, ["a", "", "b,a"]);
    let newest = engine.adapter_log().iter().max_by_key(|(_, at)| *at);
    assert!(newest.is_some_and(|(names, _)| names.is_empty()));
}

#[test]
fn an_aborted_request_frees_its_slot_and_its_blocks() {
    let mut engine = Engine::new(config(), 0);
    for _ in 0..5 {
        engine.submit(Duration::ZERO, request(32, 50));
    }
    run(&mut engine, MS);
    assert!(engine.abort(MS, 0));
    assert!(!engine.abort(MS, 0));
    run(&mut engine, Duration::from_millis(200));
    assert_eq!(engine.load().waiting, 0);
    let events = run(&mut engine, Duration::from_secs(10));
    assert_eq!(finished(&events), [1, 2, 3, 4]);
    assert_eq!(engine.stats().finished_abort, 1);
    assert_eq!(engine.stats().finished_length, 4);
    assert!(engine.load().kv_cache_usage.abs() < 1e-9);
}

#[test]
fn pooling_ends_with_the_prefill() {
    let mut engine = Engine::new(config(), 0);
    let id = engine.submit(
        Duration::ZERO,
        GenerationRequest { finish_reason: FinishReason::Stop, max_tokens: None, ..request(10, 0) },
    );
    let events = run(&mut engine, 20 * MS);
    assert_eq!(finished(&events), [id]);
    assert_eq!(engine.stats().finished_stop, 1);
    assert_eq!(engine.stats().generation_tokens, 0);
}

#[test]
fn the_same_seed_gives_the_same_times() {
    let ends = |seed| {
        let mut engine =
            Engine::new(EngineConfig { latency: Latency { jitter: 0.5, ..config().latency }, ..config() }, seed);
        engine.submit(Duration::ZERO, request(10, 20));
        let mut times = Vec::new();
        let mut events = Vec::new();
        engine.advance(Duration::ZERO, &mut events);
        while let Some(at) = engine.next_event() {
            times.push(at);
            engine.advance(at, &mut events);
        }
        times
    };
    assert_eq!(ends(1), ends(1));
    assert_ne!(ends(1), ends(2));
    assert_eq!(ends(1).len(), 20);
}

#[test]
fn without_speed_everything_happens_at_once() {
    let mut engine = Engine::new(EngineConfig { latency: Latency { speed: 0.0, ..config().latency }, ..config() }, 0);
    for _ in 0..20 {
        engine.submit(Duration::ZERO, request(10, 10));
    }
    assert_eq!(finished(&run(&mut engine, Duration::ZERO)).len(), 20);
}

/// Twenty milliseconds and one a prompt token, then ten a token; twice that when all four slots are taken.
fn apart() -> EngineConfig {
    let cost = CostModel::Apart { prefill_overhead: 20 * MS, inter_token: 10 * MS, load_factor: 2.0 };
    EngineConfig { latency: Latency { cost, ..config().latency }, ..config() }
}

#[test]
fn sequences_timed_apart_do_not_wait_for_one_another() {
    let mut engine = Engine::new(apart(), 0);
    let long = engine.submit(Duration::ZERO, request(100, 2));
    run(&mut engine, Duration::ZERO);
    assert!(run(&mut engine, 50 * MS).is_empty());
    let short = engine.submit(50 * MS, request(10, 2));
    run(&mut engine, 50 * MS);
    // (20 + 10) ms times 4/3, with the long one still under way, and then 10 ms times 4/3.
    assert_eq!(engine.next_event(), Some(90 * MS));
    assert_eq!(run(&mut engine, 90 * MS), [Event::Token { id: short, index: 0 }]);
    assert_eq!(finished(&run(&mut engine, 104 * MS)), [short]);
    assert_eq!(run(&mut engine, 120 * MS), [Event::Token { id: long, index: 0 }]);
    assert_eq!(run(&mut engine, 130 * MS), [Event::Finished { id: long, generated: 2, cached_tokens: 0 }]);
    assert_eq!(engine.next_event(), None);
}

#[test]
fn sequences_timed_apart_queue_for_slots_and_slow_down_with_load() {
    let mut engine = Engine::new(apart(), 0);
    for _ in 0..5 {
        engine.submit(Duration::ZERO, request(10, 1));
    }
    run(&mut engine, Duration::ZERO);
    assert_eq!((engine.load().running, engine.load().waiting), (4, 1));
    // The first ran alone when it began; its slot goes to the fifth, as the fourth of the batch.
    assert_eq!(finished(&run(&mut engine, 30 * MS)), [0]);
    assert_eq!((engine.load().running, engine.load().waiting), (4, 0));
    assert_eq!(finished(&run(&mut engine, 60 * MS)), [1, 2, 3]);
    assert_eq!(finished(&run(&mut engine, 90 * MS)), [4]);
    assert!((engine.stats().request_queue_time.sum() - 0.03).abs() < 1e-9);
}

#[test]
fn sequences_timed_apart_find_prefixes_and_answers_take_no_blocks() {
    let mut engine = Engine::new(apart(), 0);
    engine.submit(Duration::ZERO, with_blocks(64, 40, 1));
    run(&mut engine, Duration::ZERO);
    run(&mut engine, 84 * MS);
    assert!((engine.load().kv_cache_usage - 0.04).abs() < 1e-9);
    run(&mut engine, 400 * MS);
    assert!((engine.load().kv_cache_usage - 0.04).abs() < 1e-9, "30 tokens later");
    run(&mut engine, Duration::from_secs(1));
    let id = engine.submit(Duration::from_secs(1), with_blocks(64, 1, 1));
    run(&mut engine, Duration::from_secs(1));
    // 48 of 64: the last token is always computed, and with it its block.
    assert_eq!(engine.next_event(), Some(Duration::from_secs(1) + 36 * MS));
    let events = run(&mut engine, Duration::from_secs(2));
    assert_eq!(events, [Event::Finished { id, generated: 1, cached_tokens: 48 }]);
}
