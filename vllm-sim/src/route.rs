//! Paths, and what answers on each.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde_json::{Map, Value};

use crate::api::{self, Job};
use crate::config::Runner;
use crate::fault::FaultTarget;
use crate::metrics_page;
use crate::pod::Pod;
use crate::refusal::{Refusal, parse_object};
use crate::response::Response;
use crate::stream::{ENGINE_DEAD, EventStream, ResponseWriter};
use crate::ticket::Ticket;

/// Path of the page.
const METRICS: &str = "/metrics";
const ORCA_REQUEST: &str = "endpoint-load-metrics-format";
const ORCA_RESPONSE: HeaderName = HeaderName::from_static("endpoint-load-metrics");

/// A known path with its method.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Route {
    Chat,
    Completions,
    Responses,
    ShowResponse,
    CancelResponse,
    Messages,
    CountTokens,
    Vectors(api::pooling::Vectors),
    Scores(api::pooling::Scores),
    Tokenize,
    Models,
    LoadAdapter,
    UnloadAdapter,
    Health,
    Ping,
    Version,
    Occupancy,
    Metrics,
    /// The page's mount answers on every path that begins as the page's own, with any method.
    BelowMetrics,
    WrongMethod(&'static str),
    Unknown,
}

/// Every path with its method, and the handler behind it.
const ROUTES: &[(&str, &str, Route)] = &[
    ("POST", "/v1/chat/completions", Route::Chat),
    ("POST", "/v1/completions", Route::Completions),
    ("POST", "/v1/responses", Route::Responses),
    ("POST", "/v1/messages", Route::Messages),
    ("POST", "/v1/messages/count_tokens", Route::CountTokens),
    ("POST", "/v1/embeddings", Route::Vectors(api::pooling::Vectors::Embeddings)),
    ("POST", "/pooling", Route::Vectors(api::pooling::Vectors::Pooling)),
    ("POST", "/v1/score", Route::Scores(api::pooling::Scores::Score)),
    ("POST", "/score", Route::Scores(api::pooling::Scores::Score)),
    ("POST", "/v1/rerank", Route::Scores(api::pooling::Scores::Rerank)),
    ("POST", "/v2/rerank", Route::Scores(api::pooling::Scores::Rerank)),
    ("POST", "/rerank", Route::Scores(api::pooling::Scores::Rerank)),
    ("POST", "/tokenize", Route::Tokenize),
    ("GET", "/v1/models", Route::Models),
    ("POST", "/v1/load_lora_adapter", Route::LoadAdapter),
    ("POST", "/v1/unload_lora_adapter", Route::UnloadAdapter),
    ("GET", "/health", Route::Health),
    ("GET", "/ping", Route::Ping),
    ("POST", "/ping", Route::Ping),
    ("GET", "/version", Route::Version),
    ("GET", "/load", Route::Occupancy),
    ("GET", METRICS, Route::Metrics),
];

impl Route {
    pub(crate) fn find(pod: &Pod, method: &Method, path: &str) -> Self {
        let mut allowed = None;
        for (known_method, known_path, route) in ROUTES {
            if *known_path != path || !route.is_served(pod) {
                continue;
            }
            if method.as_str() == *known_method {
                return *route;
            }
            allowed = Some(*known_method);
        }
        if let Some(route) = Self::of_response(method, path).filter(|route| route.is_served(pod)) {
            return route;
        }
        if path.starts_with(METRICS) {
            return Self::BelowMetrics;
        }
        allowed.map_or(Self::Unknown, Self::WrongMethod)
    }

    /// What is asked of a stored response.
    fn of_response(method: &Method, path: &str) -> Option<Self> {
        let (id, below) = split_response(path)?;
        if id.is_empty() {
            return None;
        }
        let (route, allowed) = match below {
            "" => (Self::ShowResponse, "GET"),
            "cancel" => (Self::CancelResponse, "POST"),
            _ => return None,
        };
        Some(if method.as_str() == allowed { route } else { Self::WrongMethod(allowed) })
    }

    fn is_served(self, pod: &Pod) -> bool {
        let runner = pod.config.runner;
        match self {
            Self::Chat
            | Self::Completions
            | Self::Responses
            | Self::ShowResponse
            | Self::CancelResponse
            | Self::Messages
            | Self::CountTokens => runner != Runner::Pooling,
            Self::Vectors(_) | Self::Scores(_) => runner != Runner::Generate,
            Self::LoadAdapter | Self::UnloadAdapter => pod.config.allow_runtime_lora_updating,
            _ => true,
        }
    }

    pub(crate) fn fault_target(self) -> Option<FaultTarget> {
        match self {
            Self::Chat | Self::Completions | Self::Responses | Self::Messages | Self::Vectors(_) | Self::Scores(_) => {
                Some(FaultTarget::Inference)
            }
            Self::Metrics => Some(FaultTarget::Metrics),
            Self::Health | Self::Ping => Some(FaultTarget::Health),
            Self::Models => Some(FaultTarget::Models),
            _ => None,
        }
    }

    pub(crate) async fn respond(self, pod: &Arc<Pod>, path: &str, headers: &HeaderMap, body: &Bytes) -> Response {
        let id = || split_response(path).map_or("", |(id, _)| id);
        match self {
            Self::ShowResponse => api::responses::show(pod, id()),
            Self::CancelResponse => api::responses::cancel(pod, id()),
            Self::Chat => run(pod, headers, body, true, |map| api::chat::job(pod, map)).await,
            Self::Completions => run(pod, headers, body, true, |map| api::completions::job(pod, map)).await,
            Self::Responses => run(pod, headers, body, false, |map| api::responses::job(pod, map)).await,
            Self::Messages => {
                let job = object(headers, body).and_then(|map| api::messages::job(pod, &map));
                match start(pod, job) {
                    Ok(started) => started.respond().await,
                    Err(refusal @ (Refusal::Malformed { .. } | Refusal::EmptyBody)) => Response::refused(&refusal),
                    Err(refusal) => Response::refused_message(&refusal),
                }
            }
            Self::CountTokens => object(headers, body)
                .and_then(|map| api::messages::count_tokens(pod, &map))
                .unwrap_or_else(|refusal| Response::refused_message(&refusal)),
            Self::Vectors(kind) => run(pod, headers, body, false, |map| api::pooling::vectors(pod, map, kind)).await,
            Self::Scores(kind) => run(pod, headers, body, false, |map| api::pooling::scores(pod, map, kind)).await,
            Self::Tokenize => object(headers, body)
                .and_then(|map| api::models::tokenize(pod, &map))
                .unwrap_or_else(|refusal| Response::refused(&refusal)),
            Self::Models => api::models::list(pod),
            Self::LoadAdapter => object(headers, body)
                .and_then(|map| api::models::load(pod, &map))
                .unwrap_or_else(|refusal| Response::refused(&refusal)),
            Self::UnloadAdapter => object(headers, body)
                .and_then(|map| api::models::unload(pod, &map))
                .unwrap_or_else(|refusal| Response::refused(&refusal)),
            Self::Health | Self::Ping => Response::empty(200),
            Self::Version => Response::json(200, r#"{"version":"0.32.0"}"#),
            Self::Occupancy => {
                let load =
                    if pod.config.enable_server_load_tracking { pod.in_flight.load(Ordering::Relaxed) } else { 0 };
                Response::json(200, format!("{{\"server_load\":{load}}}"))
            }
            Self::Metrics | Self::BelowMetrics => {
                Response::new(200, Some(metrics_page::CONTENT_TYPE), metrics_page::page(pod))
            }
            Self::WrongMethod(allowed) => Response::wrong_method(allowed),
            Self::Unknown => Response::no_such_path(),
        }
    }

    /// Bytes that are neither JSON nor events nor metrics, under the content type of the true answer.
    pub(crate) fn garbage(self, body: &Bytes) -> Response {
        const BYTES: &[u8] = b"\x00\xff\xfe{]]<html>\x80 vllm:num_requests_running{ oops } NaNaN\n# TYPE\n\x1b";
        if self == Self::Metrics {
            return Response::new(200, Some(metrics_page::CONTENT_TYPE), BYTES);
        }
        let stream = serde_json::from_slice::<Value>(body).ok().is_some_and(|value| api::is_true(value.get("stream")));
        let content_type = if stream { "text/event-stream; charset=utf-8" } else { "application/json" };
        Response::new(200, Some(content_type), BYTES)
    }
}

/// Id, and what stands below it, of a path of a stored response.
fn split_response(path: &str) -> Option<(&str, &str)> {
    let rest = path.strip_prefix("/v1/responses/")?;
    Some(rest.split_once('/').unwrap_or((rest, "")))
}

/// The handler label of the `http_` families: `none` for what the server does not have.
pub(crate) fn handler_name(pod: &Pod, method: &Method, path: &str) -> &'static str {
    match Route::find(pod, method, path) {
        Route::WrongMethod(_) | Route::Unknown => "none",
        Route::BelowMetrics => METRICS,
        Route::ShowResponse => "/v1/responses/{response_id}",
        Route::CancelResponse => "/v1/responses/{response_id}/cancel",
        _ => ROUTES.iter().find(|(_, known, _)| *known == path).map_or("none", |(_, known, _)| known),
    }
}

/// Reads the body of a JSON API.
fn object(headers: &HeaderMap, body: &Bytes) -> Result<Map<String, Value>, Refusal> {
    let json = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).is_some_and(|value| {
        value.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
    });
    if !json {
        return Err(Refusal::WrongContentType);
    }
    match parse_object(body)? {
        Value::Object(map) => Ok(map),
        _ => Err(Refusal::EmptyBody),
    }
}

async fn run(
    pod: &Arc<Pod>,
    headers: &HeaderMap,
    body: &Bytes,
    orca: bool,
    read: impl FnOnce(&Map<String, Value>) -> Result<Job, Refusal>,
) -> Response {
    let job = object(headers, body).and_then(|map| read(&map));
    match start(pod, job) {
        Ok(started) => {
            let stream = started.stream;
            let mut response = started.respond().await;
            if orca && !stream {
                response.headers.extend(load_header(pod, headers));
            }
            response
        }
        Err(refusal) => Response::refused(&refusal),
    }
}

struct Started {
    ticket: Ticket,
    writer: Box<dyn ResponseWriter>,
    stream: bool,
}

fn start(pod: &Arc<Pod>, job: Result<Job, Refusal>) -> Result<Started, Refusal> {
    let job = job?;
    let ticket = pod.submit(job.requests)?;
    Ok(Started { ticket, writer: job.writer, stream: job.stream })
}

impl Started {
    async fn respond(self) -> Response {
        if self.stream {
            return Response::events(EventStream::new(self.ticket, self.writer));
        }
        match self.ticket.outcomes().await {
            Some(outcomes) => Response::json(200, self.writer.whole(&outcomes)),
            None => Response::server_error(500, ENGINE_DEAD),
        }
    }
}

/// The load report that a client can ask for, in vLLM's spelling.
fn load_header(pod: &Pod, headers: &HeaderMap) -> Option<(HeaderName, HeaderValue)> {
    let format = headers.get(ORCA_REQUEST)?.to_str().ok()?;
    let load = pod.total_load();
    let waiting = load.waiting as f64;
    let usage = load.kv_cache_usage;
    let text = if format.eq_ignore_ascii_case("text") {
        format!(
            "TEXT named_metrics.num_requests_waiting={waiting:?}, \
             named_metrics.kv_cache_usage_perc={usage:?}"
        )
    } else if format.eq_ignore_ascii_case("json") {
        format!(
            "JSON {{\"named_metrics\": {{\"num_requests_waiting\": {waiting:?}, \
             \"kv_cache_usage_perc\": {usage:?}}}}}"
        )
    } else {
        return None;
    };
    Some((ORCA_RESPONSE, HeaderValue::from_str(&text).ok()?))
}
