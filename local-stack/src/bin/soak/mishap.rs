//! What happens to the pods, the sidecar and Envoy meanwhile.

use std::sync::atomic::Ordering;
use std::time::Duration;

use local_stack::{HttpClient, Stack};
use rand::Rng as _;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom as _;
use serde_json::{Value, json};

use crate::client::Phase;
use crate::vitals::{carries_on, changes_hands, is_started_again, returns};

/// A mishap lasts between these, milliseconds: long enough for several polls of the sidecar, and for the picker to eject a pod.
const LASTS_MS: std::ops::Range<u64> = 200..1500;
/// Slow pages last longer: snapshots of 2 s are stale.
const SLOW_PAGES_MS: std::ops::Range<u64> = 2500..4000;
/// A slow page takes that long, milliseconds.
const PAGE_DELAY_MS: u64 = 5000;
/// Envoy is paused for so long: posts and boards of 3 s count no more, and clients of 3 s have left.
const PAUSED_MS: std::ops::Range<u64> = 4000..10_000;
/// From one to the next.
const PAUSE_MS: std::ops::Range<u64> = 50..400;

/// A kind of mishap. Those that keep pods from serving hit one of them at a time.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Mishap {
    /// A pod is killed and started again; then it must get requests.
    PodKilled,
    /// The sidecar is killed and started again; the one in Envoy panics and starts again by itself.
    SidecarKilled,
    /// A pod's engine stands still; its pages look well.
    EngineFrozen,
    /// A pod closes its port and every connection.
    PortClosed,
    /// A pod responds with 503 or 429.
    Full,
    /// A pod responds with 500 at once, as a vLLM that drains; its pages are idle and well.
    Draining,
    /// A pod responds with 200 with nonsense.
    Garbage,
    /// A pod resets connections in the middle of a response, or before it.
    Reset,
    /// A pod ends its responses half way, as if they were whole.
    HalfAnswer,
    /// A pod leaves out the event that ends a stream.
    Unterminated,
    /// A pod closes connections half way.
    CutOff,
    /// A pod reports errors, in a stream as an event.
    ErrorEvent,
    /// A pod takes requests and is silent.
    Silent,
    /// A pod's metrics page is nonsense, or never ends.
    BadPage,
    /// The metrics pages of all pods but one are slow.
    SlowPages,
    /// A pod's metrics page has no series of the engine.
    NoEngineSeries,
    /// Envoy is stopped for seconds and goes on.
    EnvoyPaused,
    /// The snapshot service traps. Once, since Envoy does not make another; that of the native module panics and goes on.
    ServiceTrapped,
}

impl Mishap {
    pub(crate) const ALL: [Self; 18] = [
        Self::PodKilled,
        Self::SidecarKilled,
        Self::EngineFrozen,
        Self::PortClosed,
        Self::Full,
        Self::Draining,
        Self::Garbage,
        Self::Reset,
        Self::HalfAnswer,
        Self::Unterminated,
        Self::CutOff,
        Self::ErrorEvent,
        Self::Silent,
        Self::BadPage,
        Self::SlowPages,
        Self::NoEngineSeries,
        Self::EnvoyPaused,
        Self::ServiceTrapped,
    ];

    /// What a pod is told, unless the mishap is done to its process.
    fn fault(self, random: &mut SmallRng) -> Option<Value> {
        let after_events = random.random_range(0..4);
        match self {
            Self::PodKilled | Self::SidecarKilled | Self::EnvoyPaused | Self::ServiceTrapped => None,
            Self::EngineFrozen => Some(json!({"kind": "freeze"})),
            Self::PortClosed => Some(json!({"kind": "refuse", "duration_ms": LASTS_MS.end})),
            Self::Full => {
                let status = if random.random_bool(0.5) { 503 } else { 429 };
                Some(json!({"kind": "status", "status": status}))
            }
            Self::Draining if random.random_bool(0.5) => Some(json!({"kind": "drain"})),
            Self::Draining => Some(json!({"kind": "status", "status": 500})),
            Self::Garbage => Some(json!({"kind": "garbage", "probability": 0.5})),
            Self::Reset => Some(json!({"kind": "reset", "after_events": after_events, "probability": 0.5})),
            Self::HalfAnswer => Some(json!({"kind": "short", "after_events": after_events, "probability": 0.5})),
            Self::Unterminated => Some(json!({"kind": "unterminated", "probability": 0.5})),
            Self::CutOff => Some(json!({"kind": "cut", "after_events": after_events, "probability": 0.5})),
            Self::ErrorEvent => Some(json!({"kind": "error_event", "after_events": after_events, "probability": 0.5})),
            // Each of these keeps a client for as long as it has patience.
            Self::Silent if random.random_bool(0.5) => Some(json!({"kind": "hang", "count": 4})),
            Self::Silent => Some(json!({"kind": "stall", "after_events": after_events, "count": 4})),
            Self::BadPage => {
                let kind = ["garbage", "huge", "hang"].choose(random).copied().unwrap_or("hang");
                Some(json!({"kind": kind, "target": "metrics"}))
            }
            Self::SlowPages => Some(json!({"kind": "slow_headers", "target": "metrics", "delay_ms": PAGE_DELAY_MS})),
            Self::NoEngineSeries => Some(json!({"kind": "disable_log_stats", "target": "metrics"})),
        }
    }

    /// How long it lasts, milliseconds.
    const fn lasts_ms(self) -> std::ops::Range<u64> {
        match self {
            Self::SlowPages => SLOW_PAGES_MS,
            Self::EnvoyPaused => PAUSED_MS,
            _ => LASTS_MS,
        }
    }
}

/// Does one mishap after the other, for ever; notes each. When every kind has happened, it is enough.
pub(crate) async fn trouble(
    stack: &mut Stack,
    phase: &Phase,
    random: &mut SmallRng,
    seen: &mut Vec<Mishap>,
) -> anyhow::Error {
    let mut left = Mishap::ALL.to_vec();
    loop {
        if left.is_empty() {
            phase.is_enough.store(true, Ordering::Relaxed);
            left.extend(Mishap::ALL.iter().filter(|mishap| **mishap != Mishap::ServiceTrapped));
        }
        let mishap = left.swap_remove(random.random_range(0..left.len()));
        seen.push(mishap);
        let pod = random.random_range(0..stack.pods.len());
        if let Err(error) = happen(stack, phase, mishap, pod, random).await {
            return error.context(format!("{mishap:?} of pod {pod}"));
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(PAUSE_MS))).await;
    }
}

async fn happen(
    stack: &mut Stack,
    phase: &Phase,
    mishap: Mishap,
    pod: usize,
    random: &mut SmallRng,
) -> anyhow::Result<()> {
    let lasts = Duration::from_millis(random.random_range(mishap.lasts_ms()));
    let others = (0..stack.pods.len()).filter(|other| *other != pod);
    let told: Vec<usize> = if mishap == Mishap::SlowPages { others.collect() } else { vec![pod] };
    match mishap {
        Mishap::PodKilled => stack.pod(pod)?.kill().await,
        Mishap::SidecarKilled => match stack.sidecar_process() {
            Some(sidecar) => sidecar.kill().await,
            // The one in Envoy, whose module is built with `fault-injection`, panics.
            None => {
                let url = format!("http://{}/fault", stack.sidecar);
                let status = HttpClient::new().get(&url).await?.status;
                anyhow::ensure!(status.is_success(), "{url}: {status}; is the module built with `fault-injection`?");
            }
        },
        Mishap::EnvoyPaused => {
            if let Some(envoy) = stack.envoy() {
                envoy.freeze();
            }
        }
        Mishap::ServiceTrapped => return changes_hands(stack, phase).await,
        other => {
            for &pod in &told {
                if let Some(fault) = other.fault(random) {
                    HttpClient::new().post_json(&stack.pod_url(pod, "/sim/fault")?, fault.to_string()).await?;
                }
            }
        }
    }
    tokio::time::sleep(lasts).await;
    match mishap {
        Mishap::PodKilled => {
            stack.restart_pod(pod).await?;
            returns(stack, pod).await?;
        }
        Mishap::SidecarKilled if stack.mode().has_sidecar_process() => stack.restart_sidecar().await?,
        Mishap::SidecarKilled => is_started_again(stack).await?,
        // It opens its port by itself: nobody could ask it to.
        Mishap::PortClosed => tokio::time::sleep(Duration::from_millis(LASTS_MS.end) - lasts).await,
        Mishap::EnvoyPaused => {
            if let Some(envoy) = stack.envoy() {
                envoy.thaw();
            }
            carries_on(stack).await?;
        }
        _ => {
            for pod in told {
                recover(stack, pod).await?;
            }
        }
    }
    Ok(())
}

/// Undoes whatever was under way when the trouble was called off.
pub(crate) async fn repair(stack: &mut Stack) -> anyhow::Result<()> {
    if let Some(envoy) = stack.envoy() {
        envoy.thaw();
    }
    if !stack.mode().has_sidecar_process() {
        is_started_again(stack).await?;
    } else if stack.sidecar_process().is_none_or(|sidecar| sidecar.ended().is_some()) {
        stack.restart_sidecar().await?;
    }
    // A port that closed by itself opens by itself.
    tokio::time::sleep(Duration::from_millis(LASTS_MS.end)).await;
    for pod in 0..stack.pods.len() {
        if stack.pod(pod)?.ended().is_some() {
            stack.restart_pod(pod).await?;
        } else {
            recover(stack, pod).await?;
        }
    }
    Ok(())
}

async fn recover(stack: &Stack, pod: usize) -> anyhow::Result<()> {
    let request = http::Request::delete(stack.pod_url(pod, "/sim/fault")?).body(http_body_util::Full::default())?;
    HttpClient::new().send(request).await?;
    Ok(())
}
