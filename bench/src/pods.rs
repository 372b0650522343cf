//! Canned pods: model servers that respond at once with the same bytes, so that next to Envoy they cost little.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context as _;
use memchr::memmem;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::chat;
use crate::load::Fleet;

/// A page as a vLLM server that has worked for a while shows it.
const METRICS: &str = include_str!("metrics.txt");
const READ_BYTES: usize = 256 * 1024;

/// The pods' process. It ends when its standard input does, so at the latest with this process.
#[derive(Debug)]
pub(crate) struct Pods {
    child: Child,
    stdin: Option<ChildStdin>,
    /// Where they listen.
    pub(crate) addrs: Vec<SocketAddr>,
}

impl Pods {
    /// Starts this program again as that many pods.
    pub(crate) fn start(fleet: Fleet) -> anyhow::Result<Self> {
        let program = std::env::current_exe()?;
        let mut child = Command::new(program)
            .args(["pods", "--count", &fleet.pods.to_string(), "--step-millis", &fleet.step_millis.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("the pods could not be started")?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().context("the pods have no output")?;
        let mut pods = Self { child, stdin, addrs: Vec::new() };
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        pods.addrs = line.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        Ok(pods)
    }
}

impl Drop for Pods {
    fn drop(&mut self) {
        self.stdin.take();
        let _ = self.child.wait();
    }
}

struct Canned {
    response: Vec<u8>,
    /// What is written at once, in order.
    stream: Vec<Vec<u8>>,
    metrics: Vec<u8>,
    step: Duration,
}

/// Serves pods on free ports, prints their addresses in one line, and ends when standard input does.
pub(crate) fn serve(fleet: Fleet) -> anyhow::Result<()> {
    let canned = Rc::new(canned(Duration::from_millis(fleet.step_millis)));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let tasks = tokio::task::LocalSet::new();
    tasks.block_on(&runtime, async {
        let mut addrs = Vec::new();
        for _ in 0..fleet.pods {
            let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
            addrs.push(listener.local_addr()?.to_string());
            let canned = Rc::clone(&canned);
            tokio::task::spawn_local(async move {
                while let Ok((connection, _)) = listener.accept().await {
                    // A connection that breaks is the client's business: it counts what it gets.
                    tokio::task::spawn_local(respond(connection, Rc::clone(&canned)));
                }
            });
        }
        println!("{}", addrs.join(" "));
        std::io::stdout().flush()?;
        let (ended, end) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
            let _ = ended.send(());
        });
        let _ = end.await;
        Ok(())
    })
}

fn canned(step: Duration) -> Canned {
    let whole = |content_type: &str, body: &str| {
        format!(
            "HTTP/1.1 200 OK\r\ndate: Sun, 22 Nov 2026 04:03:00 GMT\r\nserver: uvicorn\r\ncontent-length: {}\r\n\
             content-type: {content_type}\r\nvary: Origin\r\n\r\n{body}",
            body.len()
        )
        .into_bytes()
    };
    let head = "HTTP/1.1 200 OK\r\ndate: Sun, 22 Nov 2026 04:03:24 GMT\r\nserver: uvicorn\r\n\
                content-type: text/event-stream; charset=utf-8\r\nvary: Origin\r\ntransfer-encoding: chunked\r\n\r\n";
    let mut stream = vec![head.as_bytes().to_vec()];
    stream.extend(chat::events().iter().map(|event| format!("{:x}\r\n{event}\r\n", event.len()).into_bytes()));
    if let Some(last) = stream.last_mut() {
        last.extend_from_slice(b"0\r\n\r\n");
    }
    Canned {
        response: whole("application/json", &chat::response()),
        stream,
        metrics: whole("text/plain; version=0.0.4; charset=utf-8", METRICS),
        step,
    }
}

async fn respond(mut connection: TcpStream, canned: Rc<Canned>) -> std::io::Result<()> {
    connection.set_nodelay(true)?;
    let mut buffer = vec![0; READ_BYTES];
    let mut filled = 0;
    loop {
        // One request at a time: its head, then what its body's length says.
        let head = loop {
            let bytes = buffer.get(..filled).unwrap_or_default();
            if let Some(end) = memmem::find(bytes, b"\r\n\r\n") {
                break end + 4;
            }
            let Some(room) = buffer.get_mut(filled..).filter(|room| !room.is_empty()) else { return Ok(()) };
            match connection.read(room).await? {
                0 => return Ok(()),
                read => filled += read,
            }
        };
        let bytes = buffer.get(..head).unwrap_or_default();
        let metrics = bytes.starts_with(b"GET /metrics");
        let length = content_length(bytes);
        let searched = if length <= chat::SEARCHED_BYTES { length } else { 0 };
        let mut body = filled - head;
        let mut write_at = filled;
        while body < length {
            // A large body is not kept: what is behind the head is written over.
            if write_at == buffer.len() {
                write_at = head;
            }
            let Some(room) = buffer.get_mut(write_at..) else { return Ok(()) };
            match connection.read(room).await? {
                0 => return Ok(()),
                read => {
                    body += read;
                    write_at += read;
                }
            }
        }
        let streamed = memmem::find(buffer.get(head..head + searched).unwrap_or_default(), chat::STREAM_MARK).is_some();
        filled = 0;
        if metrics {
            connection.write_all(&canned.metrics).await?;
        } else if streamed {
            let mut writes = canned.stream.iter();
            if let Some(head) = writes.next() {
                connection.write_all(head).await?;
            }
            for event in writes {
                tokio::time::sleep(canned.step).await;
                connection.write_all(event).await?;
            }
        } else {
            connection.write_all(&canned.response).await?;
        }
    }
}

fn content_length(head: &[u8]) -> usize {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut headers);
    if request.parse(head).is_err() {
        return 0;
    }
    let length = request.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    length.and_then(|header| std::str::from_utf8(header.value).ok()?.parse().ok()).unwrap_or(0)
}
