//! The command as an operator runs it.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test file: a failure here is the test's failure"
)]

use std::io::Write;
use std::process::{Command, Output, Stdio};

const THEIRS: &str = "apiVersion: inference.networking.x-k8s.io/v1alpha1
kind: EndpointPickerConfig
plugins:
- type: queue-scorer
- type: single-profile-handler
schedulingProfiles:
- name: default
  plugins:
  - pluginRef: queue-scorer
    weight: 2
";
const WRONG: &str = "apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- type: token-producer
- type: unheard-of
";

fn run(arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_inpick"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that reads a file may be gone before it is written to.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn convert_prints_what_check_accepts() {
    let converted = run(&["config", "convert"], THEIRS);
    assert!(converted.status.success());
    let printed = text(&converted.stdout);
    let document: serde_json::Value = serde_json::from_str(printed).unwrap();
    assert_eq!(document["scheduling"]["scorers"][0]["weight"], 2.0);
    assert!(text(&converted.stderr).starts_with("note: plugins[1].type: single-profile-handler has no effect"));
    for document in [printed, THEIRS, "pool: llama\n"] {
        assert!(run(&["config", "check", "-"], document).status.success(), "{document}");
    }
}

#[test]
fn every_error_is_told_and_nothing_is_printed() {
    for action in ["convert", "check"] {
        let refused = run(&["config", action, "-"], WRONG);
        assert_eq!(refused.status.code(), Some(1));
        assert_eq!(text(&refused.stdout), "");
        let errors: Vec<_> = text(&refused.stderr).lines().collect();
        assert_eq!(errors.len(), 2, "{errors:?}");
        assert!(errors[0].starts_with("error: plugins[0].type: token-producer is not supported: "));
        assert_eq!(errors[1], "error: plugins[1].type: unheard-of is unknown");
    }
}

#[test]
fn a_file_is_read_by_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("epp.yaml");
    std::fs::write(&file, THEIRS).unwrap();
    let from_file = run(&["config", "convert", file.to_str().unwrap()], "");
    assert!(from_file.status.success());
    assert_eq!(from_file.stdout, run(&["config", "convert"], THEIRS).stdout);
    let absent = run(&["config", "check", folder.path().join("absent").to_str().unwrap()], "");
    assert_eq!(absent.status.code(), Some(1));
    assert!(text(&absent.stderr).contains("absent: "));
}

#[test]
fn inpicks_own_document_needs_no_conversion() {
    let refused = run(&["config", "convert"], "pool: llama\n");
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("this is no EndpointPickerConfig"));
}
