//! The tasks that list endpoints: clusters of Envoy, names in DNS.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::MissedTickBehavior;

use crate::config::AddressFamily;
use crate::discovery::{Clusters, MAX_CLUSTERS_BYTES, clusters_path, resolve};
use crate::eds_writer::offer_targets;
use crate::polling::{take_problem, take_targets};
use crate::shared::{Shared, admin_client};

/// How long Envoy's admin endpoint may take to list clusters. It runs on Envoy's main thread.
const ADMIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Follows clusters of Envoy, each for a pool.
pub(crate) async fn watch_clusters(shared: Arc<Shared>, clusters: Vec<(usize, String)>) {
    let path = clusters_path(clusters.iter().map(|(_, name)| name.as_str()));
    let mut client = admin_client(&shared.config.envoy_admin, &path, MAX_CLUSTERS_BYTES);
    let mut ticks = tokio::time::interval(shared.config.discovery_interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let parsed = match client.get(&shared.buffers, ADMIN_TIMEOUT, Clusters::parse).await {
            Ok(Ok(parsed)) => Ok(parsed),
            Ok(Err(error)) => Err(error.to_string()),
            Err(error) => Err(format!("Envoy's admin endpoint {}: {error}", shared.config.envoy_admin)),
        };
        for (pool, cluster) in &clusters {
            let targets = parsed
                .as_ref()
                .map_err(Clone::clone)
                .and_then(|parsed| parsed.targets(cluster).map_err(|error| error.to_string()));
            match targets {
                Ok(targets) => take_targets(&shared, *pool, targets),
                Err(problem) => take_problem(&shared, *pool, &problem),
            }
        }
    }
}

/// Follows a name in DNS for a pool.
pub(crate) async fn watch_name(shared: Arc<Shared>, pool: usize, host: String, port: u16, family: AddressFamily) {
    let mut ticks = tokio::time::interval(shared.config.discovery_interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match resolve(host.clone(), port, family).await {
            Ok(targets) => offer_targets(&shared, pool, targets),
            Err(error) => take_problem(&shared, pool, &format!("{host} cannot be resolved: {error}")),
        }
    }
}
