use super::*;

const ONE_AT_A_TIME: Timing = Timing::Together {
    iteration_micros: 1_000.0,
    prefill_token_micros: 10.0,
    decode_sequence_micros: 100.0,
    token_budget: 64,
};

fn together(slots: usize, blocks: usize) -> Engine {
    let calibration = Calibration {
        name: "test",
        max_num_seqs: slots,
        num_gpu_blocks: blocks,
        keeps_output: true,
        timing: ONE_AT_A_TIME,
        max_lora: 1,
        lora_load_micros: 5_000,
    };
    Engine::new(calibration, 0)
}

/// A prompt whose first `shared` tokens are those of every other with that `family`.
fn prompt(family: u64, own: u64, shared: usize, tokens: usize, output_tokens: usize) -> Prompt {
    let blocks: Vec<u64> = (0..(tokens + output_tokens) / BLOCK_TOKENS)
        .map(|block| {
            let is_shared = (block + 1) * BLOCK_TOKENS <= shared;
            family * 1_000_000 + block as u64 + if is_shared { 0 } else { 1_000 * own }
        })
        .collect();
    Prompt { tokens: tokens as u32, output_tokens: output_tokens as u32, blocks: blocks.into(), adapter: None }
}

/// Lets an engine run until it is idle: the moments of each output.
fn drain(engine: &mut Engine) -> Vec<(u64, Output)> {
    let mut all = Vec::new();
    let mut outputs = Vec::new();
    while let Some(due) = engine.next_due() {
        engine.step(due, &mut outputs);
        all.extend(outputs.drain(..).map(|output| (due, output)));
        assert!(all.len() < 10_000);
    }
    all
}

#[test]
fn the_simulator_of_llm_d_takes_its_times() {
    let mut engine = Engine::new(Calibration::INFERENCE_SIM, 0);
    engine.submit(0, prompt(1, 1, 0, 1_000, 3), 0);
    // 20 ms and 1 000 times 200 us, then twice 10 ms.
    let first = Output::First { id: 0, cached_tokens: 0 };
    assert_eq!(drain(&mut engine), [(220_000, first), (240_000, Output::Done { id: 0 })]);
    // The same again: 62 blocks are cached, 8 tokens are not.
    engine.submit(1, prompt(1, 1, 0, 1_000, 1), 1_000_000);
    let first = Output::First { id: 1, cached_tokens: 992 };
    assert_eq!(drain(&mut engine), [(1_021_600, first), (1_021_600, Output::Done { id: 1 })]);
}

#[test]
fn under_full_load_every_time_doubles_and_the_ninth_waits_for_a_slot() {
    let mut engine = Engine::new(Calibration::INFERENCE_SIM, 0);
    for id in 0..9 {
        engine.submit(id, prompt(id as u64, 1, 0, 16, 2), 0);
    }
    assert_eq!((engine.page().running, engine.page().waiting), (8, 1));
    let outputs = drain(&mut engine);
    let at = |id: usize| {
        outputs.iter().find(|(_, output)| matches!(output, Output::First { id: other, .. } if *other == id)).unwrap().0
    };
    let alone = 20_000.0 + 16.0 * 200.0;
    assert_eq!(at(0), alone as u64);
    assert_eq!(at(7), (alone * 2.0) as u64);
    let ends = outputs.iter().filter(|(_, output)| matches!(output, Output::Done { .. })).map(|&(at, _)| at);
    assert!(at(8) > ends.min().unwrap());
}

/// 2 048 tokens make one iteration, 1 more a second one: each takes 16.4 ms and 47.84 us a token.
#[test]
fn an_a100_takes_the_published_times() {
    for (tokens, iterations) in [(2_048, 1.0), (2_049, 2.0)] {
        let mut engine = Engine::new(Calibration::A100, 0);
        engine.submit(0, prompt(1, 1, 0, tokens, 2), 0);
        let outputs = drain(&mut engine);
        let first = iterations * 16_441.5 + tokens as f64 * 47.84;
        assert!((outputs[0].0 as f64 - first).abs() < 3.0, "{outputs:?} {first}");
        assert!(((outputs[1].0 - outputs[0].0) as f64 - 16_441.5 - 18.21).abs() < 2.0);
    }
}

#[test]
fn prompts_share_an_iteration_up_to_its_budget() {
    let mut engine = together(8, 100);
    engine.submit(0, prompt(1, 1, 0, 96, 1), 0);
    engine.submit(1, prompt(2, 1, 0, 32, 1), 0);
    // The first came alone: 64 of its tokens. Then its other 32 and the second's.
    let first = 1_000 + 640;
    let second = first + 1_000 + 640;
    assert_eq!(engine.next_due(), Some(first));
    let outputs = drain(&mut engine);
    assert!(outputs.iter().all(|&(at, _)| at == second), "{outputs:?}");
    assert_eq!(outputs.len(), 4);
}

#[test]
fn decoding_goes_on_while_others_prefill() {
    let mut engine = together(8, 100);
    engine.submit(0, prompt(1, 1, 0, 16, 4), 0);
    let mut outputs = Vec::new();
    engine.step(1_160, &mut outputs);
    assert_eq!(outputs, [Output::First { id: 0, cached_tokens: 0 }]);
    engine.submit(1, prompt(2, 1, 0, 200, 1), 1_200);
    let rest = drain(&mut engine);
    // One iteration was under way; the next have 63 prompt tokens beside the one that is decoded.
    assert_eq!(rest[0], (1_160 + 1_100 + 1_000 + 630 + 100 + 1_000 + 630 + 100, Output::Done { id: 0 }));
}

#[test]
fn what_ran_before_is_cached_with_its_answer() {
    let mut engine = together(8, 100);
    engine.submit(0, prompt(1, 1, 48, 64, 32), 0);
    drain(&mut engine);
    assert_eq!(engine.cached_tokens(&prompt(1, 1, 48, 96, 32)), 80);
    assert_eq!(engine.cached_tokens(&prompt(1, 2, 48, 96, 32)), 48);
    assert_eq!(engine.prefilled_tokens(), 64);
}

#[test]
fn the_newest_is_preempted_when_blocks_run_out_and_ends_all_the_same() {
    let mut engine = together(8, 10);
    engine.submit(0, prompt(1, 1, 0, 64, 60), 0);
    engine.submit(1, prompt(2, 1, 0, 64, 60), 0);
    let outputs = drain(&mut engine);
    assert!(engine.preemptions() > 0);
    let firsts = outputs.iter().filter(|(_, output)| matches!(output, Output::First { .. })).count();
    let done: Vec<usize> = outputs
        .iter()
        .filter_map(|(_, output)| if let Output::Done { id } = output { Some(*id) } else { None })
        .collect();
    assert_eq!((firsts, done), (2, vec![0, 1]));
    assert!(engine.page().kv_usage < 1e-9);
}

#[test]
fn what_does_not_fit_waits_behind_what_runs() {
    let mut engine = together(8, 8);
    engine.submit(0, prompt(1, 1, 0, 112, 4), 0);
    engine.submit(1, prompt(2, 1, 0, 64, 4), 0);
    let mut outputs = Vec::new();
    engine.step(engine.next_due().unwrap(), &mut outputs);
    assert_eq!((engine.page().running, engine.page().waiting), (1, 1));
    assert_eq!(drain(&mut engine).len() + outputs.len(), 4);
}

#[test]
fn an_adapter_without_room_is_passed_over_and_loading_takes_its_time() {
    let mut engine = together(8, 100);
    let adapted = |family, adapter| Prompt { adapter: Some(adapter), ..prompt(family, 1, 0, 16, 2) };
    engine.submit(0, adapted(1, 1), 0);
    assert_eq!(engine.next_due(), Some(5_000 + 1_160));
    engine.submit(1, adapted(2, 2), 0);
    engine.submit(2, adapted(3, 1), 0);
    let done: Vec<usize> = drain(&mut engine)
        .into_iter()
        .filter_map(|(_, output)| if let Output::Done { id } = output { Some(id) } else { None })
        .collect();
    assert_eq!(done, [0, 2, 1]);
    assert!(engine.has_adapter(2) && !engine.has_adapter(1));
}

#[test]
fn a_slow_pod_takes_longer_and_a_dead_one_loses_everything() {
    let mut engine = Engine::new(Calibration::INFERENCE_SIM, 0);
    engine.slow_down(3.0);
    engine.submit(0, prompt(1, 1, 0, 100, 1), 0);
    assert_eq!(engine.next_due(), Some(120_000));
    assert_eq!(engine.abort(), [0]);
    assert_eq!((engine.next_due(), engine.page().running), (None, 0));
}
