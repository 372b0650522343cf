//! What browsers and scripts ask for: the page, its two assets, the state and the events.

use std::convert::Infallible;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderName, StatusCode};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::future::{Either, pending};
use futures_util::{Stream, StreamExt as _, stream};

use crate::gate::Admission;
use crate::route::{Access, Route, Served};

/// The page loads its own style and script, reads its own events and shows one icon that it carries; all else is forbidden.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'";

/// How long events come for one look at a token: the page then asks again, with the token.
const TOKEN_LASTS: Duration = Duration::from_secs(60);

const HTML: &str = include_str!("../../assets/live.html");
const STYLE: &str = include_str!("../../assets/live.css");
const SCRIPT: &str = include_str!("../../assets/live.js");

/// The table's lines for all of it. Every path is read-only; the page and its assets are the same for everybody and hold no data.
pub(crate) fn routes() -> [Route; 5] {
    [
        Route::get(Access::Shell, "/", async || asset("text/html; charset=utf-8", HTML)),
        Route::get(Access::Shell, "/live.css", async || asset("text/css; charset=utf-8", STYLE)),
        Route::get(Access::Shell, "/live.js", async || asset("text/javascript; charset=utf-8", SCRIPT)),
        Route::get(Access::Viewer, "/api/state", state),
        Route::get(Access::Viewer, "/api/events", events),
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

async fn events(State(Served { stage, .. }): State<Served>, Extension(admission): Extension<Admission>) -> Response {
    let Some(viewer) = stage.join() else {
        return (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, "5")], "too many watch already\n").into_response();
    };
    let events = stream::unfold(viewer, async |mut viewer| {
        let event = viewer.next().await?;
        Some((Ok::<_, Infallible>(Event::default().event(event.name).data(&*event.data)), viewer))
    });
    (headers("text/event-stream"), Sse::new(lasting(events, time(admission)))).into_response()
}

/// How long events come for what let a request in; `None`: as long as somebody watches.
fn time(admission: Admission) -> Option<Duration> {
    (admission == Admission::Token).then_some(TOKEN_LASTS)
}

/// Tells so long; `None`: until the stream ends.
fn lasting<T>(stream: impl Stream<Item = T>, time: Option<Duration>) -> impl Stream<Item = T> {
    stream.take_until(match time {
        None => Either::Left(pending()),
        Some(time) => Either::Right(tokio::time::sleep(time)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn events_end_when_a_token_must_be_looked_at_again_and_only_then() {
        let endless = || {
            stream::unfold((), async |()| {
                tokio::task::yield_now().await;
                Some(((), ()))
            })
        };
        let ended =
            tokio::time::timeout(TOKEN_LASTS, lasting(endless(), Some(Duration::from_millis(20))).count()).await;
        assert!(ended.is_ok());
        assert_eq!(lasting(endless(), None).take(100_000).count().await, 100_000);
        assert_eq!((time(Admission::Open), time(Admission::Token)), (None, Some(TOKEN_LASTS)));
    }
}
