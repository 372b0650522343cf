//! What browsers and scripts ask for: the page, its two assets, the state and the events.

use std::convert::Infallible;

use axum::extract::State;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderName, StatusCode};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;

use crate::route::{Access, Route, Served};

/// The page loads its own style and script, reads its own events and shows one icon that it carries; all else is forbidden.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'";

const HTML: &str = include_str!("../../assets/live.html");
const STYLE: &str = include_str!("../../assets/live.css");
const SCRIPT: &str = include_str!("../../assets/live.js");

/// The table's lines for all of it. Every path is read-only; the page and its assets are the same for everybody and hold no data.
pub(crate) fn routes() -> [Route; 5] {
    [
        Route::get(Access::Shell, "/", async || asset("text/html; charset=utf-8", HTML)),
        Route::get(Access::Shell, "/live.css", async || asset("text/css; charset=utf-8", STYLE)),
        Route::get(Access::Shell, "/live.js", async || asset("text/javascript; charset=utf-8", SCRIPT)),
        Route::get(Access::Reader, "/api/state", state),
        Route::get(Access::Reader, "/api/events", events),
    ]
}

fn asset(media_type: &'static str, text: &'static str) -> Response {
    (headers(media_type), [(CONTENT_SECURITY_POLICY, POLICY)], text).into_response()
}

const fn headers(media_type: &'static str) -> [(HeaderName, &'static str); 4] {
    [
        (CONTENT_TYPE, media_type),
        (CACHE_CONTROL, "no-cache"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
    ]
}

async fn state(State(Served { stage, .. }): State<Served>) -> Response {
    (headers("application/json"), stage.document().await).into_response()
}

async fn events(State(Served { stage, .. }): State<Served>) -> Response {
    let Some(viewer) = stage.join() else {
        return (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, "5")], "too many watch already\n").into_response();
    };
    let events = stream::unfold(viewer, async |mut viewer| {
        let event = viewer.next().await?;
        Some((Ok::<_, Infallible>(Event::default().event(event.name).data(&*event.data)), viewer))
    });
    (headers("text/event-stream"), Sse::new(events)).into_response()
}
