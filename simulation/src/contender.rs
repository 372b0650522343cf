//! Who takes part: a policy's name, and the gateway that follows it.

use anyhow::{Context as _, Result, bail, ensure};
use endpoint_picker::{Config, Plugin};

use snapshot::ServedModel;

use crate::calibration::Calibration;
use crate::envoy::{EnvoySettings, Envoys};
use crate::gateway::{Gateway, ModelGateway, SignalLoss};
use crate::pod::Pod;
use crate::policy::Policy;
use crate::policy::cache_aware::CacheAware;
use crate::policy::cost::{Lmetric, Oracle};
use crate::policy::endpoint_picker_defaults::EndpointPickerDefaults;
use crate::policy::plain::{LeastRequest, Random, RoundRobin};
use crate::text::seed_of;
use crate::world::START_MICROS;

/// A way to pick that is compared with others.
#[derive(Clone, Debug)]
pub(crate) struct Contender {
    /// As it is named on the command line and in tables.
    pub(crate) name: String,
    kind: Kind,
    loss: SignalLoss,
}

#[derive(Clone, Debug)]
enum Kind {
    RoundRobin,
    Random,
    LeastRequest,
    EndpointPickerDefaults,
    CacheAware,
    Lmetric,
    Oracle,
    /// The real core.
    Envoys(Box<EnvoySettings>),
}

/// The real core with its own LMetric.
const LMETRIC_CONFIG: &str = r#"{"scheduling":{"scorers":[{"name":"lmetric-scorer"}]}}"#;

/// What the contenders with the real core have in common.
#[derive(Clone, Debug)]
pub(crate) struct ContenderSettings {
    /// The configuration of `ours`.
    pub(crate) config: String,
    pub(crate) replicas: usize,
    pub(crate) workers: usize,
    pub(crate) loss: SignalLoss,
}

impl Contender {
    /// Every policy by name. `ours` is the real core with the configuration that is given; `@4x8` behind it: 4 Envoys with 8 workers.
    pub(crate) const NAMES: [&'static str; 9] =
        ["round-robin", "random", "least-request", "epp", "cache-aware", "lmetric", "oracle", "ours", "ours-lmetric"];

    /// The one of that name.
    pub(crate) fn named(name: &str, settings: &ContenderSettings) -> Result<Self> {
        let (policy, replicas, workers) = match name.split_once('@') {
            None => (name, settings.replicas, settings.workers),
            Some((policy, size)) => {
                let (replicas, workers) = size.split_once('x').with_context(|| format!("{size} is not like 4x8"))?;
                (policy, replicas.parse()?, workers.parse()?)
            }
        };
        ensure!(replicas > 0 && workers > 0, "{name}: no worker");
        let envoys = |config: &str| -> Result<Kind> {
            let config = parse(config)?;
            Ok(Kind::Envoys(Box::new(EnvoySettings { config, replicas, workers, loss: settings.loss })))
        };
        let kind = match policy {
            "round-robin" => Kind::RoundRobin,
            "random" => Kind::Random,
            "least-request" => Kind::LeastRequest,
            "epp" => Kind::EndpointPickerDefaults,
            "cache-aware" => Kind::CacheAware,
            "lmetric" => Kind::Lmetric,
            "oracle" => Kind::Oracle,
            "ours" => envoys(&settings.config)?,
            "ours-lmetric" => envoys(LMETRIC_CONFIG)?,
            _ => bail!("no policy {name}; there are: {}", Self::NAMES.join(", ")),
        };
        Ok(Self { name: name.to_owned(), kind, loss: settings.loss })
    }

    /// A gateway that follows it.
    pub(crate) fn gateway(
        &self,
        calibration: &Calibration,
        pods: &[Pod],
        models: &[ServedModel],
        mean_output_tokens: f64,
        seed: u64,
    ) -> Box<dyn Gateway> {
        let policy: Box<dyn Policy> = match &self.kind {
            Kind::RoundRobin => Box::new(RoundRobin::default()),
            Kind::Random => Box::new(Random),
            Kind::LeastRequest => Box::new(LeastRequest),
            Kind::EndpointPickerDefaults => Box::new(EndpointPickerDefaults::new(calibration.num_gpu_blocks)),
            Kind::CacheAware => Box::new(CacheAware::default()),
            Kind::Lmetric => Box::new(Lmetric),
            Kind::Oracle => Box::new(Oracle::new(mean_output_tokens)),
            Kind::Envoys(settings) => return Box::new(Envoys::new(settings, models, pods, seed, START_MICROS)),
        };
        Box::new(ModelGateway::new(policy, pods.len(), self.loss, seed_of(&[seed, 12])))
    }
}

fn parse(config: &str) -> Result<Config> {
    match Plugin::parse(config.as_bytes()).with_context(|| format!("configuration {config}"))? {
        Plugin::Filter(config) => Ok(config),
        Plugin::SnapshotService(_) => bail!("{config} configures the snapshot service, not the filter"),
    }
}
