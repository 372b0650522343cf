//! The binary: what it prints, and how it ends.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::client::{End, PATIENCE, get, post, post_head, read};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

const CHAT: &str = "/v1/chat/completions";
const STREAM: &[u8] = br#"{"messages":[{"role":"user","content":"hi"}],"max_tokens":20,"stream":true}"#;

struct Program {
    child: Child,
    addr: SocketAddr,
}

impl Program {
    fn start(flags: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_vllm-sim"))
            .args(["--port", "0", "--step-ms", "20"])
            .args(flags)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let addr = line.strip_prefix("listening on http://").unwrap().trim();
        Self { child, addr: addr.parse().unwrap() }
    }

    fn terminate(&self) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    }

    fn wait(&mut self) {
        let end = Instant::now() + PATIENCE;
        while self.child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < end, "still running");
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn streaming(program: &Program) -> TcpStream {
    let mut stream = TcpStream::connect(program.addr).await.unwrap();
    stream.write_all(&post_head(CHAT, STREAM, "")).await.unwrap();
    let end = Instant::now() + PATIENCE;
    while get(program.addr, "/sim/state").await.json()["engines"][0]["running"] != 1 {
        assert!(Instant::now() < end);
    }
    stream
}

#[tokio::test]
async fn terminated_with_time_to_finish_it_lets_streams_end_and_exits() {
    let mut program = Program::start(&["--shutdown-timeout", "20"]);
    let mut busy = streaming(&program).await;
    program.terminate();
    let end = Instant::now() + PATIENCE;
    while get(program.addr, "/sim/state").await.json()["mode"] != "draining" {
        assert!(Instant::now() < end);
    }
    let plain = r#"{"messages":[{"role":"user","content":"hi"}]}"#;
    assert_eq!(post(program.addr, CHAT, plain).await.status(), 500);
    assert_eq!(get(program.addr, "/health").await.status(), 200);
    let seen = read(&mut busy, PATIENCE).await;
    assert!(seen.chunks().1 && seen.body().ends_with("data: [DONE]\n\n"));
    program.wait();
    assert!(TcpStream::connect(program.addr).await.is_err());
}

#[tokio::test]
async fn terminated_at_once_it_cuts_streams_and_exits() {
    let mut program = Program::start(&[]);
    let mut busy = streaming(&program).await;
    program.terminate();
    let seen = read(&mut busy, PATIENCE).await;
    assert!(!seen.chunks().1);
    assert_ne!(seen.end, End::StillOpen);
    program.wait();
}

#[tokio::test]
async fn flags_set_faults_and_the_pod_name() {
    let program = Program::start(&["--speed", "0", "--pod-name", "pod-7", "--fault", "kind=status,status=503,count=1"]);
    let plain = r#"{"messages":[{"role":"user","content":"hi"}]}"#;
    let seen = post(program.addr, CHAT, plain).await;
    assert_eq!((seen.status(), seen.header("x-inference-pod").unwrap()), (503, "pod-7".to_owned()));
    assert_eq!(post(program.addr, CHAT, plain).await.status(), 200);
}

#[test]
fn impossible_settings_end_it_with_a_reason() {
    let output = Command::new(env!("CARGO_BIN_EXE_vllm-sim"))
        .args(["--port", "0", "--num-gpu-blocks", "4", "--max-model-len", "4096"])
        .output()
        .unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("KV cache"));
}
