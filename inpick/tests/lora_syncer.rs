//! `inpick lora-syncer` as a process.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test should stop at what it did not expect")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};

#[test]
fn it_says_where_its_metrics_are_and_ends_with_a_signal() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_inpick"))
        .args([
            "lora-syncer",
            "--config",
            "/nowhere/configmap.yaml",
            "--metrics-host",
            "127.0.0.1",
            "--metrics-port",
            "0",
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("listening on http://").unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    assert!(page.starts_with("HTTP/1.1 200") && page.contains("# TYPE lora_syncer_adapter_status gauge"), "{page}");
    assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
    assert!(child.wait().unwrap().success());
}

#[test]
fn its_flags_are_those_of_the_reference() {
    let help = Command::new(env!("CARGO_BIN_EXE_inpick")).args(["lora-syncer", "--help"]).output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    for flag in
        ["--config", "--health-check-timeout", "--health-check-interval", "--reconcile-trigger", "--metrics-port"]
    {
        assert!(help.contains(flag), "{flag} in {help}");
    }
    assert!(help.contains("DYNAMIC_LORA_ROLLOUT_CONFIG") && help.contains("/config/configmap.yaml"), "{help}");
}
