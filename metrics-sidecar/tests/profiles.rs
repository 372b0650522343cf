//! Profiles of the process, as `go tool pprof` reads them.
#![allow(
    missing_docs,
    unreachable_pub,
    dead_code,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test should stop at what it did not expect"
)]

mod stage;

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use stage::{Manner, Server, get, sidecar};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

const POOL: [&str; 2] = ["--pool", "p=static:127.0.0.1:1"];

/// The sidecar's program, and where it listens.
async fn process(flags: &[&str]) -> (Child, SocketAddr) {
    process_with(flags, &[]).await
}

/// The same with more in its environment.
async fn process_with(flags: &[&str], environment: &[(&str, &str)]) -> (Child, SocketAddr) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_metrics-sidecar"))
        .args(["--listen", "127.0.0.1:0"])
        .args(flags)
        .envs(environment.iter().copied())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).await.unwrap();
    let address = line.trim().strip_prefix("listening on http://").unwrap().parse().unwrap();
    (child, address)
}

/// What `go tool pprof` makes of a profile; `None` where there is no Go.
#[allow(clippy::explicit_write, reason = "`eprintln` would go to the test harness, which swallows it")]
async fn read_with_go(profile: &[u8]) -> Option<String> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(profile).unwrap();
    let go = Command::new("go").args(["tool", "pprof", "-raw"]).arg(file.path()).output().await;
    let Ok(read) = go else {
        writeln!(std::io::stderr(), "SKIPPED reading a profile with go: it is not installed").unwrap();
        return None;
    };
    assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
    Some(String::from_utf8(read.stdout).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cpu_of_the_process_is_profiled() {
    let envoy = Server::start(&[("/stats/prometheus", Manner::Page(stage::envoy::tagged_page(20)))]).await;
    let admin = format!("http://{}", envoy.address);
    let (_child, address) = process(&[&["--envoy-admin", admin.as_str()], POOL.as_slice()].concat()).await;
    let scrapes = tokio::spawn(async move {
        loop {
            assert_eq!(get(address, "/metrics", "").await.status, 200);
        }
    });
    // One at a time.
    let path = "/debug/pprof/profile?seconds=5";
    let (one, other) = tokio::join!(get(address, path, ""), get(address, path, ""));
    scrapes.abort();
    let (profile, refused) = if one.status == 200 { (one, other) } else { (other, one) };
    assert_eq!((profile.status, refused.status), (200, 409), "{}", String::from_utf8_lossy(&profile.body));
    assert_eq!(profile.header("content-type").as_deref(), Some("application/octet-stream"));
    assert_eq!(profile.body[..2], [0x1f, 0x8b], "it is compressed");
    if let Some(raw) = read_with_go(&profile.body).await {
        assert!(raw.contains("PeriodType: cpu nanoseconds") && raw.contains("samples/count cpu/nanoseconds"), "{raw}");
        assert!(raw.contains("metrics_sidecar::"), "no function of ours is in\n{raw}");
    }
}

/// Anonymous memory of a process, in bytes.
fn anonymous(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
}

/// The chart's limit is 256 MiB, for all that the sidecar does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn profiles_take_little_memory_and_leave_less() {
    const PEAK: u64 = 64 << 20;
    const LEFT: u64 = 16 << 20;
    let envoy = Server::start(&[("/stats/prometheus", Manner::Page(stage::envoy::tagged_page(20)))]).await;
    let admin = format!("http://{}", envoy.address);
    let (child, address) = process(&[&["--envoy-admin", admin.as_str()], POOL.as_slice()].concat()).await;
    let id = child.id().unwrap();
    // What the page itself takes is no matter of profiles.
    for _ in 0..20 {
        assert_eq!(get(address, "/metrics", "").await.status, 200);
    }
    let before = anonymous(id);
    let scrapes = tokio::spawn(async move {
        loop {
            assert_eq!(get(address, "/metrics", "").await.status, 200);
        }
    });
    let mut report = Vec::new();
    for path in ["profile?seconds=1", "profile?seconds=1", "heap", "profile?seconds=1"] {
        let making = tokio::spawn(async move { get(address, &format!("/debug/pprof/{path}"), "").await.status });
        let mut peak = 0;
        while !making.is_finished() {
            peak = peak.max(anonymous(id));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(making.await.unwrap(), 200, "{path}");
        report.push((path, peak.saturating_sub(before) >> 10, anonymous(id).saturating_sub(before) >> 10));
    }
    scrapes.abort();
    println!("KiB at the peak and after: {report:?}");
    for (path, peak, left) in &report {
        assert!(*peak < PEAK >> 10 && *left < LEFT >> 10, "{path}: {report:?} KiB at the peak and after");
    }
}

#[tokio::test]
async fn the_heap_of_the_process_is_profiled() {
    // A process that only began has little on its heap.
    let (_child, address) = process_with(&POOL, &[("_RJEM_MALLOC_CONF", "lg_prof_sample:12")]).await;
    let profile = get(address, "/debug/pprof/heap", "").await;
    assert_eq!(profile.status, 200, "{}", String::from_utf8_lossy(&profile.body));
    assert_eq!(profile.header("content-type").as_deref(), Some("application/octet-stream"));
    assert_eq!(profile.body[..2], [0x1f, 0x8b], "it is compressed");
    if let Some(raw) = read_with_go(&profile.body).await {
        assert!(raw.contains("PeriodType: space bytes") && raw.contains("Period: 4096"), "{raw}");
        assert!(raw.contains("inuse_objects/count inuse_space/bytes"), "{raw}");
        assert!(raw.contains("metrics_sidecar::"), "no function of ours is in\n{raw}");
    }
}

/// Of profile.proto, what it takes to say which function is innermost.
#[derive(Clone, PartialEq, prost::Message)]
struct Profile {
    #[prost(message, repeated, tag = "2")]
    sample: Vec<Sample>,
    #[prost(message, repeated, tag = "4")]
    location: Vec<Location>,
    #[prost(message, repeated, tag = "5")]
    function: Vec<Function>,
    #[prost(string, repeated, tag = "6")]
    texts: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Sample {
    #[prost(uint64, repeated, tag = "1")]
    location: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    value: Vec<i64>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Location {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(message, repeated, tag = "4")]
    line: Vec<Line>,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct Line {
    #[prost(uint64, tag = "1")]
    function: u64,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct Function {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "2")]
    name: i64,
}

/// The last value of a profile's samples by their innermost function.
fn flat(profile: &[u8]) -> HashMap<String, i64> {
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(profile).read_to_end(&mut bytes).unwrap();
    let profile = <Profile as prost::Message>::decode(bytes.as_slice()).unwrap();
    let mut flat = HashMap::new();
    for sample in &profile.sample {
        let location = profile.location.iter().find(|location| location.id == sample.location[0]).unwrap();
        let innermost = location.line.first().map_or(0, |line| line.function);
        let function = profile.function.iter().find(|function| function.id == innermost);
        let name = function.map_or("?", |function| &profile.texts[usize::try_from(function.name).unwrap()]);
        *flat.entry(name.to_owned()).or_default() += sample.value.last().unwrap();
    }
    flat
}

#[tokio::test]
async fn memory_is_that_of_who_asked_the_allocator_for_it() {
    const ALLOCATORS: [&str; 8] =
        ["prof_", "rjem", "jemalloc", "imalloc", "__rust_", "__rdl_", "__rg_", "alloc::alloc::"];
    let (_child, address) = process_with(&POOL, &[("_RJEM_MALLOC_CONF", "lg_prof_sample:12")]).await;
    let flat = flat(&get(address, "/debug/pprof/heap", "").await.body);
    let total: i64 = flat.values().sum();
    let of_allocators = flat.iter().filter(|(name, _)| ALLOCATORS.iter().any(|word| name.contains(word)));
    let of_allocators: i64 = of_allocators.map(|(_, bytes)| bytes).sum();
    let mut most: Vec<_> = flat.iter().collect();
    most.sort_by_key(|(_, bytes)| std::cmp::Reverse(**bytes));
    // What the allocator takes for itself before the program begins has nobody else's frames.
    assert!(total > 100_000 && of_allocators * 20 < total, "{of_allocators} of {total} bytes: {most:#?}");
    assert!(flat.len() > 5, "{most:#?}");
}

/// The allocator's samples can be turned off.
#[tokio::test]
async fn a_process_whose_allocator_does_not_sample_says_so() {
    let (_child, address) = process_with(&POOL, &[("_RJEM_MALLOC_CONF", "prof:false")]).await;
    let reply = get(address, "/debug/pprof/heap", "").await;
    assert_eq!((reply.status, reply.text().contains("does not sample")), (501, true), "{}", reply.text());
}

#[tokio::test]
async fn the_command_line_is_told_word_by_word() {
    let (_child, address) = process(&POOL).await;
    let reply = get(address, "/debug/pprof/cmdline", "").await;
    let words: Vec<String> = reply.text().split('\0').map(str::to_owned).collect();
    assert!(words[0].ends_with("metrics-sidecar"), "{words:?}");
    assert_eq!(words[1..], ["--listen", "127.0.0.1:0", POOL[0], POOL[1]]);
    assert!(get(address, "/debug/pprof/", "").await.text().contains("/debug/pprof/heap\n"));
    assert_eq!(get(address, "/debug/pprof/goroutine", "").await.status, 404);
    for seconds in ["0", "-1", "x", "301", "1.5", ""] {
        assert_eq!(get(address, &format!("/debug/pprof/profile?seconds={seconds}"), "").await.status, 400, "{seconds}");
    }
}

#[tokio::test]
async fn in_a_process_that_is_not_the_sidecars_own_there_are_no_profiles_and_it_is_said_why() {
    let running = sidecar(&POOL).await;
    for (path, word) in [("/debug/pprof/profile?seconds=1", "SIGPROF"), ("/debug/pprof/heap", "allocator")] {
        let reply = get(running.addr(), path, "").await;
        assert_eq!((reply.status, reply.text().contains(word)), (501, true), "{}", reply.text());
    }
    running.stop().await;
}

#[tokio::test]
async fn profiles_are_behind_the_token() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "scraper").unwrap();
    let flags = ["--metrics-endpoint-token-file", file.path().to_str().unwrap()];
    let (_child, address) = process(&[flags.as_slice(), &POOL].concat()).await;
    for (path, status) in [
        ("/debug/pprof/", 200),
        ("/debug/pprof/profile?seconds=1", 200),
        ("/debug/pprof/heap", 200),
        ("/debug/pprof/cmdline", 200),
    ] {
        assert_eq!(get(address, path, "").await.status, 401, "{path}");
        assert_eq!(get(address, path, "Authorization: Bearer scraper\r\n").await.status, status, "{path}");
    }
}
