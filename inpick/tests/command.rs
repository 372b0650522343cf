//! The command as an operator runs it: checks, lists, completions, and the table of a sidecar.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test file: a failure here is the test's failure"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

fn inpick(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_inpick")).args(arguments).stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Serves one page, again and again, on a free port.
fn serve(page: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, page) = (stream.unwrap(), page.clone());
            std::thread::spawn(move || {
                let mut request = [0; 4096];
                while let Ok(1..) = stream.read(&mut request) {
                    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", page.len());
                    let _ = stream.write_all(format!("{head}{page}").as_bytes());
                }
            });
        }
    });
    format!("http://{address}")
}

struct Sidecar(Child, String);

impl Drop for Sidecar {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `inpick run` for a pool of one pod that serves that page.
fn sidecar(pod: &str) -> Sidecar {
    let pool = format!("demo=static:pod-1@{}", pod.strip_prefix("http://").unwrap());
    let arguments = ["run", "--listen", "127.0.0.1:0", "--envoy-admin", "http://127.0.0.1:1", "--pool", &pool];
    let mut child = Command::new(env!("CARGO_BIN_EXE_inpick"))
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let url = line.trim().strip_prefix("listening on ").unwrap().to_owned();
    Sidecar(child, url)
}

const PAGE: &str = "# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine=\"0\"} 2.0
vllm:num_requests_running{engine=\"0\"} 3.0
vllm:kv_cache_usage_perc{engine=\"0\"} 0.25
";

#[test]
fn check_names_file_field_and_reason() {
    let shipped = ["standalone.yaml", "fragment.yaml", "native.yaml", "native-fragment.yaml", "kubernetes.yaml"];
    let files: Vec<String> = shipped.iter().map(|name| format!("{ROOT}/envoy/{name}")).collect();
    let arguments: Vec<&str> = ["check", "--strict"].into_iter().chain(files.iter().map(String::as_str)).collect();
    let output = inpick(&arguments);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout).matches(": bootstrap: no error").count(), shipped.len());

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("envoy.yaml");
    let yaml = std::fs::read_to_string(&files[1]).unwrap();
    std::fs::write(&file, yaml.replace("allow_on_headers_stop_iteration: true", "fail_open: false")).unwrap();
    let output = inpick(&["check", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let place = "static_resources.listeners[0].filter_chains[0].filters[0].typed_config.http_filters[0].typed_config.config.allow_on_headers_stop_iteration";
    let expected = format!("error: {}: {place}: expected true: without it", file.display());
    assert!(text(&output.stderr).starts_with(&expected), "{}", text(&output.stderr));
    assert_eq!(inpick(&["check", "/nowhere/envoy.yaml"]).status.code(), Some(1));
}

#[test]
fn check_reads_pages_from_files_and_urls() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("page.txt");
    std::fs::write(&file, PAGE).unwrap();
    let url = format!("{}/metrics", serve(PAGE.to_owned()));
    for source in [file.to_str().unwrap(), &url] {
        let output = inpick(&["check", source]);
        let told = text(&output.stderr);
        assert!(output.status.success() && told.contains(": cache_config: "), "{told}");
        assert!(text(&output.stdout).contains(": metrics page: no error"));
        assert_eq!(inpick(&["check", "--strict", source]).status.code(), Some(1), "warnings are errors");
    }
    let output = inpick(&["check", &serve("{\"error\":\"not found\"}".to_owned()), &url]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("error"), "{}", text(&output.stderr));
    let output = inpick(&["check", "http://127.0.0.1:1/metrics"]);
    assert!(
        text(&output.stderr).starts_with("error: http://127.0.0.1:1/metrics: cannot connect"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn top_shows_the_endpoints_of_a_sidecar_that_run_started() {
    let sidecar = sidecar(&serve(PAGE.to_owned()));
    let mut told = String::new();
    // Until the page was read for the first time.
    for _ in 0..50 {
        let output = inpick(&["top", &sidecar.1, "--once", "--sort", "running"]);
        told = text(&output.stdout);
        assert!(output.status.success(), "{}", text(&output.stderr));
        if told.contains(" fresh ") {
            break;
        }
    }
    let lines: Vec<&str> = told.lines().collect();
    assert!(lines[0].starts_with("pool demo: 1 of 1 fresh, - in flight, 2 waiting, 3 running, KV 25.0%"), "{told}");
    assert!(lines[1].starts_with("Envoy's page cannot be read: "), "{told}");
    assert!(lines[2].starts_with("ENDPOINT  STATE  WAITING  RUNNING↓     KV"), "{told}");
    assert!(lines[3].starts_with("pod-1     fresh        2         3  25.0%"), "{told}");
    let output = inpick(&["top", &sidecar.1]);
    assert!(text(&output.stderr).contains("there is no terminal; --once"), "{}", text(&output.stderr));
    let output = inpick(&["top", "http://127.0.0.1:1", "--once"]);
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn stats_tags_are_those_of_the_shipped_bootstrap() {
    let printed = text(&inpick(&["stats-tags"]).stdout);
    let shipped = std::fs::read_to_string(Path::new(ROOT).join("envoy/fragment.yaml")).unwrap();
    let tags: Vec<&str> = printed.lines().skip(2).collect();
    assert!(tags.len() > 10 && tags.iter().all(|line| shipped.contains(line.trim())), "{printed}");
}

#[test]
fn completions_know_every_command() {
    for (shell, sign) in [("bash", "complete -F _inpick"), ("zsh", "#compdef inpick"), ("fish", "complete -c inpick")] {
        let script = text(&inpick(&["completions", shell]).stdout);
        assert!(script.contains(sign), "{shell}");
        for command in ["run", "top", "check", "stats-tags", "config", "completions"] {
            assert!(script.contains(command), "{shell}: {command}");
        }
    }
    // bash takes it.
    let mut bash = Command::new("bash").arg("-n").stdin(Stdio::piped()).spawn().unwrap();
    bash.stdin.take().unwrap().write_all(&inpick(&["completions", "bash"]).stdout).unwrap();
    assert!(bash.wait().unwrap().success());
}

#[test]
fn help_describes_every_command_and_flag() {
    let help = text(&inpick(&["--help"]).stdout);
    for word in ["run", "top", "check", "stats-tags", "config", "completions", "Examples:"] {
        assert!(help.contains(word), "{word}");
    }
    for command in ["run", "top", "check", "completions"] {
        let help = text(&inpick(&[command, "--help"]).stdout);
        let flags = help.lines().map(str::trim_start).enumerate().filter(|(_, line)| line.starts_with("--"));
        let lines: Vec<&str> = help.lines().collect();
        for (at, flag) in flags {
            let is_described = flag.contains("  ") || lines.get(at + 1).is_some_and(|next| !next.trim().is_empty());
            assert!(is_described, "{command}: {flag}");
        }
    }
    let output = inpick(&["run"]);
    assert_eq!(
        (output.status.code(), text(&output.stderr).as_str()),
        (Some(64), "error: --pool is missing: expected NAME=SOURCE, once for each pool\n")
    );
}

/// As `head` goes once it has its lines.
#[test]
fn a_reader_that_has_gone_is_told_of_and_panics_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let [page, endpoint_picker, wrong] = [
        ("page.txt", PAGE),
        ("picker.yaml", "apiVersion: inference.networking.x-k8s.io/v1alpha1\nkind: EndpointPickerConfig\n"),
        ("wrong.yaml", "pool: 3\n"),
    ]
    .map(|(name, text)| {
        let file = folder.path().join(name);
        std::fs::write(&file, text).unwrap();
        file.to_str().unwrap().to_owned()
    });
    let gone = || {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        writer
    };
    for arguments in [&["check", &page][..], &["config", "convert", &endpoint_picker], &["stats-tags"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_inpick")).args(arguments).stdout(gone()).output().unwrap();
        let told = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {told}");
        assert!(told.contains("error: standard output: Broken pipe") && !told.contains("panicked"), "{told}");
    }
    for arguments in [&["check", &wrong][..], &["config", "check", &wrong], &["check", "/nowhere/page"]] {
        let child = Command::new(env!("CARGO_BIN_EXE_inpick")).args(arguments).stderr(gone()).output().unwrap();
        assert_eq!(child.status.code(), Some(1), "{arguments:?}");
    }
}
