//! The paths under which `go tool pprof` finds profiles of the process.

use std::time::Duration;

use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE, HeaderName};
use axum::response::{IntoResponse, Response};

use crate::profilers::{ProfileError, Profiler};
use crate::route::{Access, Route, Served};

/// How long the CPU is watched if nobody says, as Go's does.
const SECONDS: u64 = 30;
/// The longest time that may be asked for.
const MOST_SECONDS: u64 = 300;

const NO_CPU: &str = "The CPU cannot be profiled here: it takes the signal SIGPROF, and in Envoy's process signals are Envoy's. Use \
    perf, or run the sidecar as a process of its own, built with the feature cpu-profile.\n";
const NO_HEAP: &str = "The heap cannot be profiled here: it takes an allocator that samples, which the sidecar has as a process of its own, \
    built with the feature heap-profile. In Envoy's process the allocator is Envoy's: see its own /heap_dump.\n";

/// The routes of profiles.
pub(crate) fn routes() -> [Route; 5] {
    [
        Route::get(Access::Profiler, "/debug/pprof/", index),
        Route::get(Access::Profiler, "/debug/pprof/profile", cpu),
        Route::get(Access::Profiler, "/debug/pprof/heap", heap),
        Route::get(Access::Profiler, "/debug/pprof/cmdline", cmdline),
        Route::get(Access::Profiler, "/debug/pprof/{name}", unknown),
    ]
}

async fn index() -> &'static str {
    "/debug/pprof/profile?seconds=30\n/debug/pprof/heap\n/debug/pprof/cmdline\n"
}

async fn unknown() -> (StatusCode, &'static str) {
    (StatusCode::NOT_FOUND, "Unknown profile: there are profile, heap and cmdline.\n")
}

/// `?seconds=N`: how long to watch.
async fn cpu(State(served): State<Served>, RawQuery(query): RawQuery) -> Response {
    let query = query.unwrap_or_default();
    let seconds = query.split('&').find_map(|pair| pair.strip_prefix("seconds="));
    let seconds = seconds.map_or(Some(SECONDS), |text| text.parse().ok().filter(|seconds| *seconds > 0));
    let Some(seconds) = seconds.filter(|seconds| *seconds <= MOST_SECONDS) else {
        return (StatusCode::BAD_REQUEST, "seconds: expected a whole number from 1 to 300\n").into_response();
    };
    answer(served.profilers.cpu.as_ref(), NO_CPU, Duration::from_secs(seconds), "profile").await
}

async fn heap(State(served): State<Served>) -> Response {
    answer(served.profilers.heap.as_ref(), NO_HEAP, Duration::ZERO, "heap").await
}

/// The words of the command line with a zero byte between them, as Go's does.
async fn cmdline() -> Response {
    let mut words = Vec::new();
    for word in std::env::args_os() {
        if !words.is_empty() {
            words.push(0);
        }
        words.extend_from_slice(word.as_encoded_bytes());
    }
    ([(CONTENT_TYPE, "text/plain; charset=utf-8"), no_sniffing()], words).into_response()
}

async fn answer(profiler: Option<&Profiler>, absent: &'static str, length: Duration, name: &str) -> Response {
    let Some(profiler) = profiler else { return (StatusCode::NOT_IMPLEMENTED, absent).into_response() };
    match profiler(length).await {
        Ok(profile) => {
            let file = (CONTENT_DISPOSITION, format!("attachment; filename=\"{name}\""));
            ([(CONTENT_TYPE, "application/octet-stream"), no_sniffing()], [file], profile).into_response()
        }
        Err(error) => {
            let status = match error {
                ProfileError::Busy => StatusCode::CONFLICT,
                ProfileError::Absent(_) => StatusCode::NOT_IMPLEMENTED,
                ProfileError::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
            };
            (status, format!("{error}\n")).into_response()
        }
    }
}

fn no_sniffing() -> (HeaderName, &'static str) {
    (axum::http::header::X_CONTENT_TYPE_OPTIONS, "nosniff")
}
