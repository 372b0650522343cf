//! Clients: requests over kept connections, each response checked.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde::Serialize;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

use crate::chat::{Prompts, Request};
use crate::response::Reader;

/// A round that takes so much longer than it should is stuck.
const PATIENCE: Duration = Duration::from_secs(60);

/// How requests follow one another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Pace {
    /// That many connections, each sending as soon as it has its response.
    Closed {
        /// How many.
        connections: u32,
    },
    /// A fixed rate, whatever the responses do.
    Open {
        /// How many a second.
        per_second: u32,
        /// Connections that share the rate: enough for none to wait for another.
        connections: u32,
    },
}

/// The pods of a workload.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Fleet {
    /// How many.
    pub(crate) pods: usize,
    /// Milliseconds between two events of a stream. A model server steps its engine so: all its streams get an event, then none for a
    /// while. Without a pause, events would meet in Envoy's sockets and be read together, which real ones are not.
    pub(crate) step_millis: u64,
}

/// Enough for a picker to have a choice.
pub(crate) const FOUR: Fleet = Fleet { pods: 4, step_millis: 1 };
/// A stream of 100 tokens takes a second.
pub(crate) const TEN: Fleet = Fleet { pods: 10, step_millis: 10 };

/// A kind of traffic.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Workload {
    /// Its name in tables and on the command line.
    pub(crate) name: &'static str,
    body_bytes: usize,
    prompts: Prompts,
    stream: bool,
    pub(crate) pace: Pace,
    pub(crate) fleet: Fleet,
    /// CPU that is aimed at, as a ratio to plain.
    pub(crate) aims: Option<Aims>,
}

/// CPU that is aimed at, as a ratio to plain.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Aims {
    /// Of the wasm module.
    pub(crate) wasm: f64,
    /// Of the native module.
    pub(crate) native: f64,
}

/// The shortest, of which the others are kinds.
const SHORT: Workload = Workload {
    name: "1 KB",
    body_bytes: 1 << 10,
    prompts: Prompts::HalfKnown,
    stream: false,
    pace: Pace::Closed { connections: 8 },
    fleet: FOUR,
    aims: Some(Aims { wasm: 1.50, native: 1.05 }),
};

/// All kinds, in the order of the table.
pub(crate) const WORKLOADS: [Workload; 8] = [
    SHORT,
    Workload { name: "64 KB", body_bytes: 64 << 10, aims: Some(Aims { wasm: 1.45, native: 1.10 }), ..SHORT },
    Workload { name: "400 KB", body_bytes: 400 << 10, aims: Some(Aims { wasm: 1.35, native: 1.08 }), ..SHORT },
    Workload { name: "64 KB new", body_bytes: 64 << 10, prompts: Prompts::New, aims: None, ..SHORT },
    Workload { name: "400 KB new", body_bytes: 400 << 10, prompts: Prompts::New, aims: None, ..SHORT },
    Workload {
        name: "stream",
        stream: true,
        pace: Pace::Closed { connections: 16 },
        aims: Some(Aims { wasm: 1.22, native: 1.03 }),
        ..SHORT
    },
    Workload { name: "idle", pace: Pace::Open { per_second: 50, connections: 4 }, aims: None, ..SHORT },
    // The shape of the load in the endpoint picker's published study: prompts of 200 tokens, answers of 100.
    Workload {
        name: "study",
        stream: true,
        pace: Pace::Open { per_second: 500, connections: 1_000 },
        fleet: TEN,
        aims: None,
        ..SHORT
    },
];

/// What a round did.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Done {
    /// Requests whose responses are as they should be.
    pub(crate) requests: u64,
    /// Chunks of streamed responses as they came out of Envoy.
    pub(crate) chunks: u64,
    /// From the first request to the last response, seconds.
    pub(crate) seconds: f64,
}

/// Sends such requests for `length` and waits for the last responses.
///
/// # Errors
/// A response is not what the pods send, or none comes.
pub(crate) async fn run(workload: Workload, gateway: SocketAddr, length: Duration) -> anyhow::Result<Done> {
    let started = Instant::now();
    let end = started + length;
    let mut clients = JoinSet::new();
    let (connections, every) = match workload.pace {
        Pace::Closed { connections } => (connections, None),
        Pace::Open { per_second, connections } => (connections, Some(Duration::from_secs(1) / per_second)),
    };
    let request = Request::new(&gateway.to_string(), workload.body_bytes, workload.prompts, workload.stream);
    for number in 0..connections {
        let ticks = every.map(|every| (started + every * number, every * connections));
        clients.spawn(client(gateway, request.clone(), number, ticks, end));
    }
    let mut done = Done::default();
    let all = async {
        while let Some(one) = clients.join_next().await {
            let one = one.context("a client failed")??;
            done.requests += one.requests;
            done.chunks += one.chunks;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(length + PATIENCE, all).await.context("the responses do not come")??;
    done.seconds = started.elapsed().as_secs_f64();
    ensure!(done.requests > 0, "no request got its response");
    Ok(done)
}

async fn client(
    gateway: SocketAddr,
    mut request: Request,
    number: u32,
    ticks: Option<(Instant, Duration)>,
    end: Instant,
) -> anyhow::Result<Done> {
    let mut connection = None;
    let mut reader = Reader::default();
    let mut done = Done::default();
    let mut ticks = ticks.map(|(first, every)| {
        let mut ticks = tokio::time::interval_at(first, every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        ticks
    });
    // A start that no other round has, so that no prompt comes twice.
    let mut serial = random_start()?.wrapping_add(u64::from(number) << 32);
    loop {
        // What was due in time is sent, late or not.
        let due = match &mut ticks {
            Some(ticks) => ticks.tick().await,
            None => Instant::now(),
        };
        if due >= end {
            return Ok(done);
        }
        let connection = match &mut connection {
            Some(connection) => connection,
            None => connection.insert(connect(gateway).await?),
        };
        serial = serial.wrapping_add(1);
        // Sixteen decimal digits.
        connection.write_all(request.numbered(serial % 10_000_000_000_000_000)).await?;
        let seen = reader.response(connection).await?;
        ensure!(
            seen.body_bytes == request.response_bytes,
            "a response has {} bytes instead of {}",
            seen.body_bytes,
            request.response_bytes
        );
        done.requests += 1;
        done.chunks += seen.chunks as u64;
    }
}

async fn connect(gateway: SocketAddr) -> anyhow::Result<TcpStream> {
    let connection = TcpStream::connect(gateway).await?;
    connection.set_nodelay(true)?;
    Ok(connection)
}

fn random_start() -> anyhow::Result<u64> {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    #[allow(clippy::cast_possible_truncation, reason = "only its difference to the last one matters")]
    Ok(since.as_nanos() as u64)
}
