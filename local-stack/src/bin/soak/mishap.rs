//! What happens to the pods and to the sidecar meanwhile.

use std::time::Duration;

use local_stack::{HttpClient, Stack};
use rand::Rng as _;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom as _;
use serde_json::{Value, json};

/// A mishap lasts between these, milliseconds: long enough for several polls of the sidecar, and for the picker to eject a pod.
const LASTS_MS: std::ops::Range<u64> = 200..1500;
/// From one to the next.
const PAUSE_MS: std::ops::Range<u64> = 50..400;

/// A kind of mishap. Those of pods hit one of them at a time, so that another can serve.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Mishap {
    /// A pod is killed and started again.
    PodKilled,
    /// The sidecar is killed and started again.
    SidecarKilled,
    /// A pod's engine stands still; its pages look well.
    EngineFrozen,
    /// A pod closes its port and every connection.
    PortClosed,
    /// A pod responds with 503.
    Full,
    /// A pod responds with 200 with nonsense.
    Garbage,
    /// A pod resets connections in the middle of a response, or before it.
    Reset,
    /// A pod ends its responses half way, as if they were whole.
    HalfAnswer,
    /// A pod closes connections half way.
    CutOff,
    /// A pod reports errors, in a stream as an event.
    ErrorEvent,
    /// A pod takes requests and is silent.
    Silent,
    /// A pod's metrics page is nonsense, or never ends.
    BadPage,
}

impl Mishap {
    pub(crate) const ALL: [Self; 12] = [
        Self::PodKilled,
        Self::SidecarKilled,
        Self::EngineFrozen,
        Self::PortClosed,
        Self::Full,
        Self::Garbage,
        Self::Reset,
        Self::HalfAnswer,
        Self::CutOff,
        Self::ErrorEvent,
        Self::Silent,
        Self::BadPage,
    ];

    /// What a pod is told, unless the mishap is done to its process.
    fn fault(self, random: &mut SmallRng) -> Option<Value> {
        let after_events = random.random_range(0..4);
        match self {
            Self::PodKilled | Self::SidecarKilled => None,
            Self::EngineFrozen => Some(json!({"kind": "freeze"})),
            Self::PortClosed => Some(json!({"kind": "refuse", "duration_ms": LASTS_MS.end})),
            Self::Full => Some(json!({"kind": "status", "status": 503})),
            Self::Garbage => Some(json!({"kind": "garbage", "probability": 0.5})),
            Self::Reset => Some(json!({"kind": "reset", "after_events": after_events, "probability": 0.5})),
            Self::HalfAnswer => Some(json!({"kind": "short", "after_events": after_events, "probability": 0.5})),
            Self::CutOff => Some(json!({"kind": "cut", "after_events": after_events, "probability": 0.5})),
            Self::ErrorEvent => Some(json!({"kind": "error_event", "after_events": after_events, "probability": 0.5})),
            // Each of these keeps a client for as long as it has patience.
            Self::Silent if random.random_bool(0.5) => Some(json!({"kind": "hang", "count": 4})),
            Self::Silent => Some(json!({"kind": "stall", "after_events": after_events, "count": 4})),
            Self::BadPage => {
                let kind = ["garbage", "huge", "hang"].choose(random).copied().unwrap_or("hang");
                Some(json!({"kind": kind, "target": "metrics"}))
            }
        }
    }
}

/// Does one mishap after the other, for ever; notes each.
pub(crate) async fn trouble(stack: &mut Stack, random: &mut SmallRng, seen: &mut Vec<Mishap>) -> anyhow::Error {
    loop {
        // Every kind once before any comes again.
        let left: Vec<Mishap> = {
            let rounds = seen.len() / Mishap::ALL.len() * Mishap::ALL.len();
            let this_round = seen.get(rounds..).unwrap_or_default();
            Mishap::ALL.into_iter().filter(|mishap| !this_round.contains(mishap)).collect()
        };
        let Some(&mishap) = left.choose(random) else { return anyhow::anyhow!("no mishap left") };
        seen.push(mishap);
        let pod = random.random_range(0..stack.pods.len());
        let lasts = Duration::from_millis(random.random_range(LASTS_MS));
        if let Err(error) = happen(stack, mishap, pod, lasts, random).await {
            return error.context(format!("{mishap:?} of pod {pod}"));
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(PAUSE_MS))).await;
    }
}

async fn happen(
    stack: &mut Stack,
    mishap: Mishap,
    pod: usize,
    lasts: Duration,
    random: &mut SmallRng,
) -> anyhow::Result<()> {
    match mishap {
        Mishap::PodKilled => stack.pod(pod)?.kill().await,
        Mishap::SidecarKilled => {
            if let Some(sidecar) = stack.sidecar_process() {
                sidecar.kill().await;
            }
        }
        other => {
            if let Some(fault) = other.fault(random) {
                HttpClient::new().post_json(&stack.pod_url(pod, "/sim/fault")?, fault.to_string()).await?;
            }
        }
    }
    tokio::time::sleep(lasts).await;
    match mishap {
        Mishap::PodKilled => stack.restart_pod(pod).await?,
        Mishap::SidecarKilled => stack.restart_sidecar().await?,
        // It opens its port by itself: nobody could ask it to.
        Mishap::PortClosed => tokio::time::sleep(Duration::from_millis(LASTS_MS.end) - lasts).await,
        _ => recover(stack, pod).await?,
    }
    Ok(())
}

/// Undoes whatever was under way when the trouble was called off.
pub(crate) async fn repair(stack: &mut Stack) -> anyhow::Result<()> {
    if stack.sidecar_process().is_none_or(|sidecar| sidecar.ended().is_some()) {
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
