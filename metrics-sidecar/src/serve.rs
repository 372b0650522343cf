//! What the sidecar answers.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{RawQuery, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tracing::error;

use crate::gauges::{About, families};
use crate::page::{self, Selection, merge};
use crate::sidecar::{ADMIN_TIMEOUT, Shared, admin_client, lock};

/// Largest page of Envoy that is merged; ten thousand series take about 1 MB.
const MAX_ENVOY_PAGE_BYTES: usize = 64 * 1024 * 1024;

/// How long encoded bytes stand for unchanged content. Beyond it they are encoded again, so that a reader that comes late is
/// not told ages of long ago.
const ENCODED_FOR: Duration = Duration::from_millis(100);

/// Longest wait that a reader of the snapshot may ask for.
const MAX_WAIT: Duration = Duration::from_secs(10);
/// While a reader waits, the fleet is looked at this often: well below the poll interval, for microseconds of work.
const WAIT_STEP: Duration = Duration::from_millis(5);

/// Query that passes Envoy's own families on unchanged.
const AS_ENVOY_PRINTS: &str = "families=all";
/// Query that leaves Envoy's own families out.
const INPICK_ONLY: &str = "families=inpick";

/// The last snapshot that was sent.
#[derive(Debug)]
pub(crate) struct Encoded {
    generation: u64,
    at: Duration,
    bytes: Bytes,
}

/// Serves until `closed` turns true, then until the answers under way are sent.
pub(crate) async fn run(listener: TcpListener, shared: Arc<Shared>, mut closed: watch::Receiver<bool>) {
    let router = Router::new()
        .route("/snapshot", get(snapshot))
        .route("/metrics", get(metrics))
        .route("/stats/prometheus", get(metrics))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .with_state(shared);
    let closing = async move {
        // A sender that is gone means the same as one that says so.
        let _ = closed.wait_for(|closed| *closed).await;
    };
    if let Err(problem) = axum::serve(listener, router).with_graceful_shutdown(closing).await {
        error!(%problem, "serving ended");
    }
}

/// With `?wait_ms=N` and a matching `If-None-Match`, the answer comes when the content changes, or after N milliseconds: a reader
/// then learns of a change at once and asks seldom while there is none.
async fn snapshot(State(shared): State<Arc<Shared>>, RawQuery(query): RawQuery, headers: HeaderMap) -> Response {
    let wait = query
        .as_deref()
        .and_then(|query| query.split('&').find_map(|pair| pair.strip_prefix("wait_ms=")))
        .and_then(|millis| millis.parse().ok())
        .map_or(Duration::ZERO, Duration::from_millis)
        .min(MAX_WAIT);
    let deadline = tokio::time::Instant::now() + wait;
    while tokio::time::Instant::now() < deadline {
        let tag = {
            let fleet = shared.fleet();
            format!("\"{}-{}\"", fleet.epoch(), fleet.generation())
        };
        if !is_known(&headers, &tag) {
            break;
        }
        tokio::time::sleep(WAIT_STEP).await;
    }
    let fleet = shared.fleet();
    let generation = fleet.generation();
    let tag = format!("\"{}-{generation}\"", fleet.epoch());
    if is_known(&headers, &tag) {
        shared.snapshots_unchanged.fetch_add(1, Ordering::Relaxed);
        return (StatusCode::NOT_MODIFIED, [(ETAG, tag)]).into_response();
    }
    let now = shared.now();
    let mut encoded = lock(&shared.encoded);
    let current =
        encoded.as_ref().filter(|last| last.generation == generation && now.saturating_sub(last.at) <= ENCODED_FOR);
    let bytes = match current {
        Some(last) => last.bytes.clone(),
        None => {
            let bytes = Bytes::from(fleet.snapshot(now, wall_ms()).encode());
            *encoded = Some(Encoded { generation, at: now, bytes: bytes.clone() });
            bytes
        }
    };
    shared.snapshots_sent.fetch_add(1, Ordering::Relaxed);
    let headers =
        [(CONTENT_TYPE, ::snapshot::CONTENT_TYPE.to_owned()), (CACHE_CONTROL, "no-cache".to_owned()), (ETAG, tag)];
    (headers, bytes).into_response()
}

fn is_known(headers: &HeaderMap, tag: &str) -> bool {
    headers
        .get(IF_NONE_MATCH)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|tags| tags.split(',').any(|known| known.trim().trim_start_matches("W/") == tag))
}

async fn metrics(State(shared): State<Arc<Shared>>, RawQuery(query): RawQuery) -> Response {
    let selection = match query.as_deref() {
        Some(INPICK_ONLY) => Selection::Inpick,
        Some(AS_ENVOY_PRINTS) => Selection::Everything,
        _ => Selection::Conventional,
    };
    let mut client = admin_client(&shared.config.envoy_admin, "/stats/prometheus", MAX_ENVOY_PAGE_BYTES);
    let envoy = client.get(&shared.buffers, ADMIN_TIMEOUT, <[u8]>::to_vec).await;
    let own = families(
        &shared.fleet(),
        About {
            commit: &shared.config.commit,
            build_ref: &shared.config.build_ref,
            envoy_up: envoy.is_ok(),
            snapshots_sent: shared.snapshots_sent.load(Ordering::Relaxed),
            snapshots_unchanged: shared.snapshots_unchanged.load(Ordering::Relaxed),
        },
    );
    ([(CONTENT_TYPE, page::CONTENT_TYPE)], merge(&envoy.unwrap_or_default(), &own, selection)).into_response()
}

async fn ready(State(shared): State<Arc<Shared>>) -> Response {
    let fleet = shared.fleet();
    let reasons = fleet.unready_reasons();
    let problems: Vec<String> = fleet
        .pools()
        .iter()
        .filter_map(|pool| pool.problem.as_ref().map(|problem| format!("pool {}: {problem}", pool.name)))
        .chain(fleet.pools().iter().flat_map(|pool| {
            pool.endpoints.iter().filter_map(|endpoint| {
                endpoint
                    .problem
                    .as_ref()
                    .map(|problem| format!("pool {}: {}: {problem}", pool.name, endpoint.target.address))
            })
        }))
        .collect();
    let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = serde_json::json!({ "ready": reasons.is_empty(), "reasons": reasons, "problems": problems });
    (status, [(CONTENT_TYPE, "application/json")], format!("{body}\n")).into_response()
}

fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
