//! The tasks that read pods: each pod's metrics page many times a second, its list of models seldom.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tracing::{debug, info, warn};

use crate::endpoint::DiscoveredPod;
use crate::models::ModelList;
use crate::outcome::Outcome;
use crate::response::ResponseError;
use crate::scrape::{Client, GetError, Pace, Peer, PollEnd};
use crate::shared::{Shared, Task, lock, log_changes};
use crate::signals::Signals;

/// Where an OpenAI-compatible server lists its models and adapters.
const MODELS_PATH: &str = "/v1/models";

/// How long a list of models may take: it is small, and a pod that cannot write it in this time is asked again later.
const MODELS_TIMEOUT: Duration = Duration::from_secs(5);

/// Largest list of models in bytes; vLLM writes some 600 for each.
const MAX_MODELS_BYTES: usize = 1024 * 1024;

/// Takes a pool's new list, and begins and ends to read pods accordingly.
pub(crate) fn take_targets(shared: &Arc<Shared>, pool: usize, targets: Vec<DiscoveredPod>) {
    let mut fleet = shared.fleet_as_it_is();
    let known = fleet.pools().get(pool).is_some_and(|pool| pool.discovered && pool.problem.is_none());
    log_changes(&fleet.discovered(pool, targets, shared.now()));
    let Some(state) = fleet.pools().get(pool) else { return };
    let addresses: Vec<SocketAddr> = state.endpoints().iter().map(|endpoint| endpoint.target.address).collect();
    if !known {
        info!(pool = state.name, endpoints = addresses.len(), "pool discovered");
    }
    drop(fleet);
    let listed: HashSet<SocketAddr> = addresses.iter().copied().collect();
    let mut pollers = lock(&shared.pollers);
    pollers.retain(|(owner, address), _| *owner != pool || listed.contains(address));
    for address in addresses {
        pollers
            .entry((pool, address))
            .or_insert_with(|| Task(shared.failures.spawn("a poller", poll(Arc::downgrade(shared), pool, address))));
    }
}

/// Says that a pool's endpoints cannot be listed.
pub(crate) fn take_problem(shared: &Shared, pool: usize, problem: &str) {
    let mut fleet = shared.fleet_as_it_is();
    if fleet.discovery_failed(pool, problem) {
        let name = fleet.pools().get(pool).map_or("", |pool| pool.name.as_str());
        warn!(pool = name, problem, "endpoints cannot be listed; what is known of them stands");
    }
}

/// Reads one endpoint's page for as long as the endpoint is listed. Holds no strong reference while it waits, so that a
/// stopped sidecar's pollers end with it.
async fn poll(shared: Weak<Shared>, pool: usize, address: SocketAddr) {
    let Some((mut client, mut pace, limit, models_interval, engine)) = shared.upgrade().and_then(|shared| {
        let config = &shared.config;
        let page = &config.pools.get(pool)?.page;
        let at = SocketAddr::new(address.ip(), page.port.unwrap_or(address.port()));
        let mut client = Client::new(Peer::Address(at), &at.to_string(), &page.path, config.max_page_bytes);
        client.set_tls(page.tls.clone());
        let pace = Pace::new(config.poll_interval, shared.seed ^ spread(pool, address));
        Some((client, pace, config.request_timeout, config.models_interval, page.engine))
    }) else {
        return;
    };
    let mut pause = pace.first();
    let mut models_due = Instant::now();
    let mut models_task: Option<Task> = None;
    let mut incarnation = 0;
    let mut was_away = false;
    let mut end = PollEnd::AtWork;
    loop {
        tokio::time::sleep(pause).await;
        let Some(strong) = shared.upgrade() else { return };
        client.set_token(lock(&strong.tokens).get(pool).cloned().flatten());
        let began = Instant::now();
        let is_listing = models_task.as_ref().is_some_and(|task| !task.0.is_finished());
        if began >= models_due && !is_listing {
            models_due = began + models_interval;
            let listing = list_models(Weak::clone(&shared), pool, address);
            models_task = Some(Task(strong.failures.spawn("a list of models", listing)));
        }
        let read = client.get(&strong.buffers, limit, |page| Signals::read_as(page, engine)).await;
        let took = began.elapsed();
        let failed = match read {
            Ok(Ok(signals)) => {
                let now = strong.now();
                let mut fleet = strong.fleet_as_it_is();
                log_changes(fleet.scraped(pool, address, now, took, signals).as_slice());
                let seen = fleet.incarnation(pool, address).unwrap_or(incarnation);
                end = if fleet.is_at_rest(pool, address) { PollEnd::AtRest } else { PollEnd::AtWork };
                drop(fleet);
                // Another process may serve other models.
                if was_away || seen != incarnation {
                    models_due = Instant::now();
                }
                incarnation = seen;
                None
            }
            Ok(Err(error)) => Some((Outcome::Malformed, error.to_string())),
            Err(error) => Some((error.outcome(), error.to_string())),
        };
        was_away = failed.is_some();
        pause = pace.after(took, if was_away { PollEnd::Failed } else { end });
        if let Some((outcome, problem)) = failed {
            strong.fleet_as_it_is().scrape_failed(pool, address, took, outcome, problem);
        }
    }
}

/// Asks a pod for its models once, over a connection of its own: a model server closes one that idles for the interval.
async fn list_models(shared: Weak<Shared>, pool: usize, address: SocketAddr) {
    let Some(shared) = shared.upgrade() else { return };
    let mut client = Client::new(Peer::Address(address), &address.to_string(), MODELS_PATH, MAX_MODELS_BYTES);
    match client.get(&shared.buffers, MODELS_TIMEOUT, ModelList::read).await {
        Ok(Some(list)) => shared.fleet_as_it_is().models_listed(pool, address, list),
        // It may serve anything, whatever it listed before.
        Err(GetError::Response(ResponseError::TooLarge(_))) => {
            shared.fleet_as_it_is().models_listed(pool, address, ModelList { models: Vec::new(), left_out: 1 });
        }
        // Other servers than OpenAI-compatible ones have no list.
        Err(GetError::Response(ResponseError::Status(404 | 405))) => {}
        Ok(None) => {
            debug!(%address, "the list of models is not JSON of its kind");
            shared.fleet_as_it_is().models_failed(pool);
        }
        Err(error) => {
            debug!(%address, %error, "models cannot be listed");
            shared.fleet_as_it_is().models_failed(pool);
        }
    }
}

/// A number that differs between endpoints, to seed their paces apart.
fn spread(pool: usize, address: SocketAddr) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    (pool, address).hash(&mut hasher);
    hasher.finish()
}
