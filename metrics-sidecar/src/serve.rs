//! What the sidecar responds to requests.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{RawQuery, State};
use axum::http::header::{
    ACCEPT, ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, ETAG, IF_NONE_MATCH, VARY,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures_util::StreamExt as _;
use tokio::sync::mpsc::Receiver;

use ::snapshot::{Tag, WATCHED_HEADER};

use crate::envoy_page::{self, Piece, Wanted, own_families};
use crate::format::{Format, takes_gzip};
use crate::gate::{Gate, Guard, guard};
use crate::live;
use crate::page::Selection;
use crate::profile_routes;
use crate::published::known_tags;
use crate::route::{Access, Route, Served};
use crate::shared::{lock, wall_ms};

/// Longest wait that a reader of the snapshot may ask for.
const MAX_WAIT: Duration = Duration::from_secs(10);
/// While a reader waits, the fleet is looked at this often: well below the poll interval, for microseconds of work.
const WAIT_STEP: Duration = Duration::from_millis(5);

/// A page of up to so many bytes is sent in one.
const SHORT_PAGE: usize = 128 * 1024;

/// What is wanted of the page.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Families {
    /// Envoy's page with the sidecar's families, or a selection of them.
    Merged(Selection),
    /// What the sidecar itself knows, for which Envoy is not asked.
    Sidecar,
}

impl Families {
    /// Reads the first `families=` of a query. What else a query says is Envoy's or a proxy's own.
    fn read(query: Option<&str>) -> Result<Self, &'static str> {
        let mut pairs = query.unwrap_or_default().split('&');
        match pairs.find_map(|pair| pair.strip_prefix("families=")) {
            None => Ok(Self::Merged(Selection::Everything)),
            Some("strict") => Ok(Self::Merged(Selection::Strict)),
            Some("inpick") => Ok(Self::Merged(Selection::Inpick)),
            Some("sidecar") => Ok(Self::Sidecar),
            Some(_) => Err("families: expected inpick, sidecar or strict\n"),
        }
    }
}

/// Everything that is served. A new path is a line here.
fn routes() -> Vec<Route> {
    let mut routes = vec![
        Route { path: "/snapshot", access: Access::Envoy, handler: get(snapshot).post(snapshot) },
        Route::get(Access::Reader, "/metrics", metrics),
        Route::get(Access::Reader, "/stats/prometheus", metrics),
        Route::get(Access::Anyone, "/healthz", async || "ok\n"),
        Route::get(Access::Anyone, "/readyz", ready),
        #[cfg(feature = "fault-injection")]
        Route::get(Access::Reader, "/fault", fault),
    ];
    routes.extend(profile_routes::routes());
    routes.extend(live::routes::routes());
    routes
}

/// What a listener serves. `for_scrapers`: it is not Envoy's.
pub(crate) fn router(served: Served, gate: &Arc<Gate>, for_scrapers: bool) -> Router {
    let offered = routes().into_iter().filter(|route| !(for_scrapers && route.access == Access::Envoy));
    let guarded = |router: Router<Served>, Route { path, access, handler }| {
        let layer = from_fn_with_state(Guard { gate: Arc::clone(gate), access }, guard);
        router.route(path, handler.layer(layer))
    };
    offered.fold(Router::new(), guarded).with_state(served)
}

/// A reader that names the present membership in `If-None-Match` gets the loads alone, and `304` when these are known too. With
/// `?wait_ms=N` the `304` is held back for up to N milliseconds, and given up for a snapshot as soon as the content changes: a
/// reader then learns of a change at once and asks seldom while there is none. The answer says whether somebody watches the live page;
/// then the body of the next request may hold recent picks, a JSON object a line.
async fn snapshot(
    State(Served { shared, .. }): State<Served>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    report: Bytes,
) -> Response {
    lock(&shared.audience).report(&report, shared.now(), wall_ms());
    let wait = query
        .as_deref()
        .and_then(|query| query.split('&').find_map(|pair| pair.strip_prefix("wait_ms=")))
        .and_then(|millis| millis.parse().ok())
        .map_or(Duration::ZERO, Duration::from_millis)
        .min(MAX_WAIT);
    let values = headers.get_all(IF_NONE_MATCH).into_iter().filter_map(|value| value.to_str().ok());
    let known: Vec<Tag> = values.flat_map(known_tags).collect();
    let deadline = tokio::time::Instant::now() + wait;
    while tokio::time::Instant::now() < deadline && known.contains(&shared.fleet().tag()) {
        tokio::time::sleep(WAIT_STEP).await;
    }
    let fleet = shared.fleet();
    let tag = fleet.tag();
    let published = lock(&shared.published).news(&fleet, shared.now(), wall_ms, &known);
    drop(fleet);
    let watched = lock(&shared.audience).is_there(shared.now()).then_some([(WATCHED_HEADER, "1")]);
    let Some(bytes) = published else {
        shared.snapshots_unchanged.fetch_add(1, Ordering::Relaxed);
        return (StatusCode::NOT_MODIFIED, watched, [(ETAG, tag.to_string())]).into_response();
    };
    shared.snapshots_sent.fetch_add(1, Ordering::Relaxed);
    let headers = [
        (CONTENT_TYPE, ::snapshot::CONTENT_TYPE.to_owned()),
        (CACHE_CONTROL, "no-cache".to_owned()),
        (ETAG, tag.to_string()),
    ];
    (watched, headers, bytes).into_response()
}

/// The merged page. Without Envoy's page it is `503` and says why: a page without Envoy's series would make Prometheus forget every
/// counter, and an old one would show counters that stand still.
async fn metrics(
    State(Served { shared, pages, .. }): State<Served>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let said = |name| {
        let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
        values.collect::<Vec<_>>().join(",")
    };
    let (format, gzip) = (Format::negotiate(&said(ACCEPT)), takes_gzip(&said(ACCEPT_ENCODING)));
    let wanted = |selection| Wanted { selection, format, gzip };
    let selection = match Families::read(query.as_deref()) {
        Ok(Families::Merged(selection)) => selection,
        Ok(Families::Sidecar) => {
            let pieces = envoy_page::pieces(Arc::default(), own_families(&shared), wanted(Selection::Inpick));
            return page(format, gzip, Body::from(pieces.flatten().collect::<Vec<u8>>()));
        }
        Err(expected) => return (StatusCode::BAD_REQUEST, expected).into_response(),
    };
    match pages.merged(wanted(selection)).await {
        Ok(pieces) => page(format, gzip, streamed(pieces).await),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}

fn page(format: Format, gzip: bool, body: Body) -> Response {
    let mut response =
        ([(CONTENT_TYPE, format.content_type()), (VARY, "accept, accept-encoding")], body).into_response();
    if gzip {
        response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

/// A page that is short is sent at once and with its length. One whose end does not come is broken off, so that nobody takes it for
/// whole.
async fn streamed(mut pieces: Receiver<Piece>) -> Body {
    let mut first = Vec::new();
    while first.len() < SHORT_PAGE {
        match pieces.recv().await {
            Some(Piece::Bytes(bytes)) => first.extend_from_slice(&bytes),
            Some(Piece::End) => return Body::from(first),
            None => break,
        }
    }
    let rest = futures_util::stream::unfold(Some(pieces), async |pieces| {
        let mut pieces = pieces?;
        // A reader that takes all at once must not hold up the polling of pods.
        tokio::task::yield_now().await;
        match pieces.recv().await {
            Some(Piece::Bytes(bytes)) => Some((Ok(bytes), Some(pieces))),
            Some(Piece::End) => None,
            None => Some((Err(std::io::Error::other("the page broke off")), None)),
        }
    });
    Body::from_stream(futures_util::stream::once(async { Ok(Bytes::from(first)) }).chain(rest))
}

/// Makes a task panic.
#[cfg(feature = "fault-injection")]
#[allow(clippy::panic, reason = "a panic is what the feature is for")]
async fn fault(State(Served { shared, .. }): State<Served>) {
    drop(shared.failures.spawn("a task that was told to", async { panic!("asked for by /fault") }));
}

async fn ready(State(Served { shared, .. }): State<Served>) -> Response {
    let fleet = shared.fleet();
    let reasons = fleet.unready_reasons(shared.now());
    let problems: Vec<String> = fleet
        .pools()
        .iter()
        .filter_map(|pool| pool.problem.as_ref().map(|problem| format!("pool {}: {problem}", pool.name)))
        .chain(fleet.pools().iter().flat_map(|pool| {
            pool.endpoints().iter().filter_map(|endpoint| {
                let trouble = endpoint.trouble()?;
                Some(format!("pool {}: {}: {trouble}", pool.name, endpoint.target.address))
            })
        }))
        .collect();
    let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = serde_json::json!({ "ready": reasons.is_empty(), "reasons": reasons, "problems": problems });
    (status, [(CONTENT_TYPE, "application/json")], format!("{body}\n")).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_and_the_snapshot_are_no_readers_routes() {
        let open: Vec<&str> = routes()
            .iter()
            .filter(|route| matches!(route.access, Access::Anyone | Access::Envoy))
            .map(|route| route.path)
            .collect();
        assert_eq!(open, ["/snapshot", "/healthz", "/readyz"]);
        let shell: Vec<&str> =
            routes().iter().filter(|route| route.access == Access::Shell).map(|route| route.path).collect();
        assert_eq!(shell, ["/", "/live.css", "/live.js"]);
    }
}
