//! SyncerFlags, named and preset as the reference names and presets them.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

/// How the syncer works.
#[derive(Args, Clone, Debug)]
pub struct SyncerFlags {
    /// File that says which adapters shall be there
    #[arg(long, env = "DYNAMIC_LORA_ROLLOUT_CONFIG", default_value = "/config/configmap.yaml", value_name = "FILE")]
    pub config: PathBuf,
    /// Seconds that the model server may take to become healthy before that is an error; it is waited for all the same
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    pub health_check_timeout: u64,
    /// Seconds between two looks at the health of a server that is not healthy
    #[arg(long, default_value_t = 2, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub health_check_interval: u64,
    /// Seconds between two comparisons while the file stays as it is
    #[arg(long, default_value_t = 5, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub reconcile_trigger: u64,
    /// The file is always checked; this is understood for the sake of manifests that have it
    #[arg(long, hide = true)]
    pub config_validation: bool,
    /// IP address that metrics are served at
    #[arg(long, default_value = "0.0.0.0", value_name = "IP")]
    pub metrics_host: std::net::IpAddr,
    /// Port of /metrics and /healthz; 0 takes a free one
    #[arg(long, default_value_t = 8080, value_name = "PORT")]
    pub metrics_port: u16,
}

impl SyncerFlags {
    /// See [`Self::health_check_timeout`].
    #[must_use]
    pub const fn patience(&self) -> Duration {
        Duration::from_secs(self.health_check_timeout)
    }

    /// See [`Self::health_check_interval`].
    #[must_use]
    pub const fn health_interval(&self) -> Duration {
        Duration::from_secs(self.health_check_interval)
    }

    /// See [`Self::reconcile_trigger`].
    #[must_use]
    pub const fn interval(&self) -> Duration {
        Duration::from_secs(self.reconcile_trigger)
    }
}
