//! The program as `make simulate` runs it.
#![allow(clippy::unwrap_used, reason = "a test should stop at what it did not expect")]

use clap::Parser as _;
use simulation::{SimulationFlags, run};

fn flags(arguments: &[&str]) -> SimulationFlags {
    SimulationFlags::try_parse_from([&["simulation"], arguments].concat()).unwrap()
}

#[test]
fn a_quick_run_writes_a_table_of_every_experiment_and_a_picture() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("results");
    run(&flags(&["--quick", "--seeds", "1", "--output", output.to_str().unwrap()])).unwrap();
    let text = std::fs::read_to_string(output.join("results.md")).unwrap();
    for expected in ["### Aims: ", "### idle", "### overload", "### trace", "### rolling restart", "| ours@4x8 |"] {
        assert!(text.contains(expected), "{expected}");
    }
    let picture = std::fs::read_to_string(output.join("policies.svg")).unwrap();
    assert!(picture.starts_with("<svg") && picture.trim_end().ends_with("</svg>"));
    assert!(picture.contains("prefers-color-scheme: dark"));
}

#[test]
fn a_trace_of_ones_own_is_played() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("access.log");
    std::fs::write(&log, "{\"start_time\": 5, \"bytes_received\": 400, \"bytes_sent\": 2600}\n").unwrap();
    let log = log.to_str().unwrap();
    run(&flags(&["--workload", "trace", "--trace", log, "--seeds", "1", "--policies", "ours"])).unwrap();
}

#[test]
fn what_makes_no_sense_is_refused() {
    for arguments in [
        &["--workload", "chats", "--policies", "best"][..],
        &["--workload", "chats", "--policies", "ours@0x1"],
        &["--workload", "chats", "--policies", "ours@four"],
        &["--workload", "chats", "--config", "{\"typo\": 1}"],
        &["--workload", "chats", "--calibration", "tpu"],
        &["--workload", "chats", "--rate", "0"],
        &["--workload", "chats", "--pods", "0"],
        &["--workload", "trace", "--trace", "/does/not/exist"],
    ] {
        assert!(run(&flags(arguments)).is_err(), "{arguments:?}");
    }
}
