//! Pages of every engine in the form that it documents, with the answers read off them by hand.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test should stop at what it did not expect")]

use metrics_sidecar::dialect::EngineKind;
use metrics_sidecar::signals::{Lora, PageError, Signals};

const LLAMA_CPP: &str = include_str!("fixtures/llama-cpp.txt");
const TRITON_TENSORRT_LLM: &str = include_str!("fixtures/triton-tensorrt-llm.txt");
const VLLM: &str = include_str!("fixtures/vllm-0.32-load.txt");

fn read(page: &str) -> Signals {
    Signals::read(page.as_bytes()).unwrap()
}

/// Waiting, running, KV cache usage, tokens in a block, blocks.
type Load = (Option<u32>, Option<u32>, Option<f64>, Option<u32>, Option<u32>);

fn load(signals: &Signals) -> Load {
    let Signals { waiting, running, kv_cache_usage, block_size, num_gpu_blocks, .. } = signals;
    (*waiting, *running, *kv_cache_usage, *block_size, *num_gpu_blocks)
}

fn missing(signals: &Signals) -> Vec<&'static str> {
    signals.missing().collect()
}

#[test]
fn every_page_is_known_by_its_names_and_says_what_its_engine_documents() {
    let pages: [(&str, EngineKind, Load, &[&str]); 10] = [
        (
            include_str!("fixtures/vllm-0.6.txt"),
            EngineKind::Vllm,
            (Some(12), Some(5), Some(0.35), Some(16), Some(7594)),
            &[],
        ),
        (
            include_str!("fixtures/sglang-0.5.txt"),
            EngineKind::Sglang,
            (Some(2826), Some(162), Some(0.28), Some(64), Some(6911)),
            &[],
        ),
        (
            include_str!("fixtures/sglang-0.5.9.txt"),
            EngineKind::Sglang,
            (Some(3), Some(4), Some(0.5), Some(1), Some(200_000)),
            &["progress"],
        ),
        (
            include_str!("fixtures/trtllm-serve-1.3.txt"),
            EngineKind::TrtllmServe,
            (Some(2), Some(7), Some(0.125_300_601_202_404_8), Some(32), Some(19960)),
            &["progress"],
        ),
        (
            TRITON_TENSORRT_LLM,
            EngineKind::TritonTensorrtLlm,
            (Some(3), Some(5), Some(0.2499), Some(64), Some(6239)),
            &["progress"],
        ),
        (
            include_str!("fixtures/triton.txt"),
            EngineKind::Triton,
            (Some(5), None, None, None, None),
            &["running", "kv_cache_usage", "cache_config", "progress"],
        ),
        (LLAMA_CPP, EngineKind::LlamaCpp, (Some(46), Some(4), None, None, None), &["kv_cache_usage", "cache_config"]),
        (
            include_str!("fixtures/llama-cpp-2025.txt"),
            EngineKind::LlamaCpp,
            (Some(0), Some(1), Some(0.625), None, None),
            &["cache_config"],
        ),
        (
            include_str!("fixtures/tgi.txt"),
            EngineKind::Tgi,
            (Some(6), Some(4), None, None, None),
            &["kv_cache_usage", "cache_config"],
        ),
        (VLLM, EngineKind::Vllm, (Some(16), Some(16), Some(0.000_976_592_303_231_882_4), Some(128), Some(32768)), &[]),
    ];
    for (page, engine, expected, lacks) in pages {
        let signals = read(page);
        assert_eq!((signals.engine, load(&signals)), (Some(engine), expected));
        assert_eq!(missing(&signals), lacks, "{engine:?}");
        assert_eq!(Signals::read_as(page.as_bytes(), Some(engine)), Ok(signals));
        for other in EngineKind::ALL.into_iter().filter(|other| *other != engine) {
            let asked_for_other = Signals::read_as(page.as_bytes(), Some(other)).unwrap();
            assert_eq!(asked_for_other.engine, Some(other));
            assert_eq!(asked_for_other.running, None, "{other:?} is not on a page of {engine:?}");
        }
    }
}

#[test]
fn what_an_engine_counts_moves_with_its_counters() {
    for (page, from, to) in [
        (VLLM, "} 10026.0", "} 10027.0"),
        (VLLM, "} 830.0", "} 831.0"),
        (VLLM, "} 9833.0", "} 9834.0"),
        (include_str!("fixtures/sglang-0.5.txt"), "7.557572e+06", "7.557573e+06"),
        (include_str!("fixtures/trtllm-serve-1.3.txt"), "} 960.0", "} 961.0"),
        (TRITON_TENSORRT_LLM, "} 981", "} 982"),
        (include_str!("fixtures/triton.txt"), "} 700", "} 701"),
        (LLAMA_CPP, "total 9303", "total 9304"),
        (include_str!("fixtures/tgi.txt"), "} 98211", "} 98212"),
    ] {
        let (before, after) = (read(page).counters, read(&page.replace(from, to)).counters);
        assert_ne!(before, after, "{from}");
        assert_eq!((before.fell_since(&after), after.fell_since(&before)), (true, false), "{from}");
    }
}

#[test]
fn the_page_of_an_engine_beside_triton_itself_is_the_engines() {
    let mut families: Vec<&str> = TRITON_TENSORRT_LLM.split("# HELP ").collect();
    families.reverse();
    let reversed = format!("# HELP {}", families.join("# HELP "));
    assert_eq!(read(&reversed), read(TRITON_TENSORRT_LLM), "the order does not matter");
    let plain = Signals::read_as(TRITON_TENSORRT_LLM.as_bytes(), Some(EngineKind::Triton)).unwrap();
    assert_eq!((plain.waiting, plain.running), (Some(0), None));
}

#[test]
fn older_backends_of_triton_say_how_many_blocks_are_used() {
    let page: String = TRITON_TENSORRT_LLM
        .lines()
        .filter(|line| !line.contains("\"fraction\"") && !line.contains("\"waiting\""))
        .map(|line| format!("{line}\n"))
        .collect();
    let signals = read(&page);
    assert_eq!((signals.waiting, signals.kv_cache_usage), (None, Some(1560.0 / 6239.0)));
    let none = page.replace(
        "\"max\",model=\"tensorrt_llm\",version=\"1\"} 6239",
        "\"max\",model=\"tensorrt_llm\",version=\"1\"} 0",
    );
    assert_eq!((read(&none).kv_cache_usage, read(&none).num_gpu_blocks), (None, None));
}

#[test]
fn engines_on_one_port_have_blocks_of_their_own() {
    let second = VLLM.replace("engine=\"0\"", "engine=\"1\"");
    let both = read(&format!("{VLLM}{second}"));
    let expected = (Some(32), Some(32), Some(0.000_976_592_303_231_882_4), Some(128), Some(65536));
    assert_eq!(load(&both), expected);
    let unknown = second.replace("num_gpu_blocks=\"32768\"", "num_gpu_blocks=\"None\"");
    assert_ne!(unknown, second);
    assert_eq!(read(&format!("{VLLM}{unknown}")).num_gpu_blocks, None, "half of them would be taken for all");
    // The same engine says it twice, once before it knows.
    let again = VLLM.replace("num_gpu_blocks=\"32768\"", "num_gpu_blocks=\"None\"");
    assert_eq!(read(&format!("{again}{VLLM}")).num_gpu_blocks, Some(32768));
    let sglang = include_str!("fixtures/sglang-0.5.txt");
    let ranks = sglang.replace("{engine_type", "{dp_rank=\"0\",engine_type");
    let both = read(&format!("{ranks}{}", ranks.replace("dp_rank=\"0\"", "dp_rank=\"1\"")));
    assert_eq!(load(&both), (Some(5652), Some(324), Some(0.28), Some(64), Some(13822)));
}

#[test]
fn requests_of_a_priority_are_among_all() {
    let line = |name: &str, priority: &str, value: u32| {
        format!(
            "sglang:{name}{{engine_type=\"unified\",model_name=\"m\",priority=\"{priority}\",tp_rank=\"0\"}} {value}.0\n"
        )
    };
    let parts = [line("num_running_reqs", "10", 2), line("num_running_reqs", "-5", 1)].concat();
    assert_eq!(read(&parts).running, Some(3));
    assert_eq!(read(&[&parts, line("num_running_reqs", "", 3).as_str()].concat()).running, Some(3));
    assert_eq!(read(&[line("num_running_reqs", "", 3).as_str(), &parts].concat()).running, Some(3));
}

#[test]
fn a_process_that_is_gone_leaves_no_requests_behind() {
    let page = include_str!("fixtures/trtllm-serve-1.3.txt");
    let earlier = page.replace("pid=\"1\"", "pid=\"7\"");
    assert_eq!(load(&read(&format!("{page}{earlier}"))), load(&read(page)));
}

#[test]
fn adapters_of_the_older_engine_are_those_of_its_newest_series() {
    let lora = read(include_str!("fixtures/vllm-0.6.txt")).lora.unwrap();
    let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
    assert_eq!(lora, Lora { max: Some(4), running: names(&["sql"]), waiting: names(&["chat", "sql"]) });
}

#[test]
fn a_page_in_a_json_string_is_read_and_other_json_is_not() {
    let quoted = serde_json::to_string(LLAMA_CPP).unwrap();
    assert_eq!(read(&quoted), read(LLAMA_CPP));
    for page in ["\"<html>\"", "\"", "\"\\\"\"", "[{\"iter\":1}]", "[]", "\"[]\""] {
        assert_eq!(Signals::read(page.as_bytes()), Err(PageError::NotMetrics), "{page}");
    }
}
