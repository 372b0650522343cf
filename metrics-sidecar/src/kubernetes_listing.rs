//! The task that follows what the API server of Kubernetes says of a pool.

use std::sync::Arc;

use kubernetes::{Connection, FailureMode, Followed, PodEndpoint, PoolView, follow};
use snapshot::PoolRewrite;
use tokio::sync::watch;

use crate::eds_writer::offer_targets;
use crate::endpoint::DiscoveredPod;
use crate::polling::take_problem;
use crate::pool::PoolPolicies;
use crate::shared::Shared;

/// Follows a pool.
pub(crate) async fn follow_cluster(shared: Arc<Shared>, pool: usize, connection: Connection, followed: Followed) {
    let Some(contacts) = shared.contacts.get(pool).map(Arc::clone) else { return };
    let (sender, mut known) = watch::channel(kubernetes::Known::default());
    let hearing = async {
        let mut last = None;
        // The sender lives as long as the other future.
        while known.changed().await.is_ok() {
            let newest = known.borrow_and_update().clone();
            if let Some(view) = newest.view
                && last.as_ref().is_none_or(|last| !Arc::ptr_eq(last, &view))
            {
                shared.fleet_as_it_is().take_policies(pool, policies(&view));
                offer_targets(&shared, pool, view.endpoints.iter().map(target).collect());
                last = Some(view);
            }
            match newest.trouble {
                Some(trouble) => take_problem(&shared, pool, &trouble),
                None => shared.fleet_as_it_is().discovery_recovered(pool),
            }
        }
    };
    tokio::join!(follow(connection, followed, contacts, sender), hearing);
}

fn policies(view: &PoolView) -> PoolPolicies {
    let rewrites = view.rewrites.iter().map(|rewrite| PoolRewrite {
        name: rewrite.name.clone(),
        model: rewrite.model.clone(),
        targets: rewrite.targets.iter().map(|target| (target.model.clone(), target.weight)).collect(),
    });
    PoolPolicies {
        fail_closed: view.failure_mode.map(|mode| mode == FailureMode::FailClose),
        objectives: view.objectives.clone(),
        rewrites: rewrites.collect(),
    }
}

fn target(endpoint: &PodEndpoint) -> DiscoveredPod {
    DiscoveredPod {
        pod: endpoint.pod.clone(),
        namespace: endpoint.namespace.clone(),
        rank: endpoint.rank,
        labels: endpoint.labels.clone(),
        ..DiscoveredPod::new(endpoint.address)
    }
}
