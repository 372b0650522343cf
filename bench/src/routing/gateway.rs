//! The gateways that are compared.

use std::fmt;

use anyhow::Context as _;
use clap::ValueEnum;
use local_stack::Stack;
use serde_json::{Value, json};

use crate::arm::{Arm, Parts};

const PODS: usize = 4;
/// One block more than sequences get: the first is vLLM's null block.
const BLOCKS: usize = 1_024 + 1;
/// The weights of the endpoint picker's default profile.
const EPP_PROFILE: &str = r#"{"scheduling":{"scorers":[{"name":"queue-scorer","weight":2},{"name":"kv-cache-utilization-scorer","weight":2},{"name":"prefix-cache-scorer","weight":3}]}}"#;
const LMETRIC: &str = r#"{"scheduling":{"scorers":[{"name":"lmetric-scorer"}]}}"#;

/// An Envoy with a way to pick.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Gateway {
    /// Plain Envoy, round robin
    RoundRobin,
    /// Plain Envoy, least request
    LeastRequest,
    /// inpick as shipped
    Ours,
    /// inpick with the lmetric-scorer
    Lmetric,
    /// inpick with the endpoint picker's default scorers and weights
    EppProfile,
}

impl fmt::Display for Gateway {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::RoundRobin => "plain Envoy, round robin",
            Self::LeastRequest => "plain Envoy, least request",
            Self::Ours => "inpick",
            Self::Lmetric => "inpick, lmetric-scorer",
            Self::EppProfile => "inpick, the EPP's profile",
        })
    }
}

impl Gateway {
    /// Its name in the simulation, and the configuration of the filter there.
    pub(crate) const fn simulated(self) -> (&'static str, &'static str) {
        match self {
            Self::RoundRobin => ("round-robin", "{}"),
            Self::LeastRequest => ("least-request", "{}"),
            Self::Ours => ("ours", "{}"),
            Self::Lmetric => ("ours", LMETRIC),
            Self::EppProfile => ("ours", EPP_PROFILE),
        }
    }

    /// Starts it with fresh pods, whose times are `slowness` times as long.
    ///
    /// # Errors
    /// A part does not start.
    pub(crate) async fn start(self, slowness: f64, workers: usize) -> anyhow::Result<Stack> {
        let builder = Stack::builder().pods(PODS).vllm_sim_args(pod_args(slowness)).workers(workers);
        let plain = |policy: &'static str| -> anyhow::Result<_> {
            let arm: Arm = "plain".parse()?;
            Ok(move |tree: &mut Value| {
                arm.patch(tree, &Parts::default());
                if let Some(cluster) = tree.pointer_mut("/static_resources/clusters/0").and_then(Value::as_object_mut) {
                    cluster.insert("lb_policy".to_owned(), json!(policy));
                }
            })
        };
        let builder = match self {
            Self::RoundRobin => builder.without_sidecar().patch(plain("ROUND_ROBIN")?),
            Self::LeastRequest => builder.without_sidecar().patch(plain("LEAST_REQUEST")?),
            Self::Ours | Self::Lmetric | Self::EppProfile => {
                builder.plugin_config(serde_json::from_str(self.simulated().1)?)
            }
        };
        builder.start().await.context("the gateway does not start")
    }
}

fn pod_args(slowness: f64) -> Vec<String> {
    let args = [
        ("timing-model", "apart".to_owned()),
        ("served-model-name", "m".to_owned()),
        ("max-num-seqs", "8".to_owned()),
        ("num-gpu-blocks", BLOCKS.to_string()),
        ("prefill-overhead-ms", "20".to_owned()),
        ("prefill-us", "200".to_owned()),
        ("inter-token-latency-ms", "10".to_owned()),
        ("time-factor-under-load", "2".to_owned()),
        ("jitter", "0".to_owned()),
        ("speed", (1.0 / slowness).to_string()),
    ];
    let pairs = args.into_iter().map(|(name, value)| format!("--{name}={value}"));
    pairs.chain(["--enable-prompt-tokens-details".to_owned()]).collect()
}
