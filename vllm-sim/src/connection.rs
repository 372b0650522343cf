//! Connections, and requests on them from their first to their last byte.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream::unfold;
use http::header::{CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION, SERVER, VARY};
use http::{HeaderMap, Method, Request};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::admin;
use crate::control::Control;
use crate::fault::{FaultKind, FaultSpec, FaultTarget};
use crate::http_stats::Served;
use crate::metrics_page;
use crate::pod::{Pod, ReceivedRequest, lock};
use crate::response::{Response, ResponseBody};
use crate::route::{self, Route};
use crate::stream::{Break, Broken, ENGINE_DEAD, Ending, EventStream, break_soon};
use crate::wire::Wire;

/// A body of this size passes in one piece when a page is made huge.
const HUGE_CHUNK: usize = 64 * 1024;
const POD_HEADER: HeaderName = HeaderName::from_static("x-inference-pod");
const REQUEST_ID_HEADER: HeaderName = HeaderName::from_static("x-request-id");

/// Counts an open connection for as long as it lives.
struct OpenConnection(Arc<Pod>);

impl OpenConnection {
    fn new(pod: Arc<Pod>) -> Self {
        pod.open_connections.fetch_add(1, Ordering::Relaxed);
        Self(pod)
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.open_connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a connection does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Doing {
    /// It waits for its first request, as long as that takes.
    Opened,
    /// A request has come and is not answered to the end.
    Serving,
    /// It waits for another request.
    Idle,
}

/// Has a connection serve for as long as the response lives.
#[derive(Debug)]
struct Serving(watch::Sender<Doing>);

impl Serving {
    fn begin(doing: &watch::Sender<Doing>) -> Self {
        doing.send_replace(Doing::Serving);
        Self(doing.clone())
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.send_replace(Doing::Idle);
    }
}

/// Returns when a connection has waited that long for another request.
async fn idle_for(limit: Duration, mut doing: watch::Receiver<Doing>) {
    loop {
        let idle = *doing.borrow_and_update() == Doing::Idle;
        tokio::select! {
            changed = doing.changed() => if changed.is_err() {
                return;
            },
            () = tokio::time::sleep(limit), if idle => return,
        }
    }
}

/// What a request knows of its connection.
#[derive(Clone, Debug)]
struct Connection {
    control: Arc<Control>,
    number: u64,
    reset: Arc<AtomicBool>,
    doing: watch::Sender<Doing>,
    admin_only: bool,
}

/// Serves a connection until it ends, is told to, or has been idle for too long.
pub(crate) async fn serve(control: Arc<Control>, stream: TcpStream, number: u64, admin_only: bool) {
    let _ = stream.set_nodelay(true);
    let mut hang_ups = control.hang_ups();
    let _open = OpenConnection::new(control.pod.clone());
    let keep_alive = Duration::try_from_secs_f64(control.pod.config.timeout_keep_alive).unwrap_or(Duration::MAX);
    let (doing, watched) = watch::channel(Doing::Opened);
    let connection = Connection { control, number, reset: Arc::new(AtomicBool::new(false)), doing, admin_only };
    let wire = Wire { stream, reset: connection.reset.clone() };
    let service = service_fn(move |request| handle(connection.clone(), request));
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(wire), service);
    let idle = idle_for(keep_alive, watched);
    tokio::pin!(serving, idle);
    loop {
        tokio::select! {
            _ = &mut serving => return,
            () = &mut idle => return,
            changed = hang_ups.changed(), if !admin_only => {
                if changed.is_err() || hang_ups.borrow_and_update().cuts(number) {
                    return;
                }
            }
        }
    }
}

type HttpBody = UnsyncBoxBody<Bytes, Broken>;
type HttpResponse<B = HttpBody> = http::Response<B>;

/// A body that holds its connection from being idle.
struct ServedBody {
    body: HttpBody,
    _serving: Serving,
}

impl Body for ServedBody {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Counts a request as in flight for as long as its response lives.
#[derive(Debug)]
struct InFlight(Arc<Pod>);

impl InFlight {
    fn new(pod: Arc<Pod>) -> Self {
        pod.in_flight.fetch_add(1, Ordering::Relaxed);
        Self(pod)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn handle(connection: Connection, request: Request<Incoming>) -> Result<HttpResponse<ServedBody>, Broken> {
    let serving = Serving::begin(&connection.doing);
    let response = dispatch(&connection, request).await?;
    Ok(response.map(|body| ServedBody { body, _serving: serving }))
}

async fn dispatch(connection: &Connection, request: Request<Incoming>) -> Result<HttpResponse, Broken> {
    let start = Instant::now();
    let control = &connection.control;
    let pod = &control.pod;
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(|_| Broken)?.to_bytes();
    let path = head.uri.path().to_owned();
    if path == "/sim" || path.starts_with("/sim/") || connection.admin_only {
        let response = admin::respond(control, connection.number, &head.method, &path, &body).await;
        let mut response = finish(pod, response, None);
        if control.refusing() && !connection.admin_only {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        return Ok(response);
    }
    let keep = !matches!(path.as_str(), "/health" | "/ping" | "/load") && !path.starts_with("/metrics");
    pod.record(
        ReceivedRequest {
            number: 0,
            method: head.method.to_string(),
            path: head.uri.path_and_query().map_or_else(|| path.clone(), ToString::to_string),
            headers: head.headers.clone(),
            body: body.clone(),
        },
        &path,
        keep,
    );
    let handler = route::handler_name(pod, &head.method, &path);
    let request_bytes = body.len() as u64;
    let counted = !matches!(handler, "/metrics" | "/health" | "/ping" | "/load" | "/version");
    let response = respond(connection, &head.method, &path, &head.headers, body).await?;
    if counted {
        let response_bytes = response.body().size_hint().exact().unwrap_or(0);
        lock(&pod.http).record(Served {
            handler,
            method: head.method.as_str(),
            status: response.status().as_u16(),
            request_bytes,
            response_bytes,
            took: start.elapsed(),
            now: (pod.started_unix + pod.now()).as_secs_f64(),
        });
    }
    Ok(response)
}

/// Everything between the request's last byte and the response's first: faults, routing, the engine.
async fn respond(
    connection: &Connection,
    method: &Method,
    path: &str,
    headers: &HeaderMap,
    body: Bytes,
) -> Result<HttpResponse, Broken> {
    let pod = &connection.control.pod;
    let route = Route::find(pod, method, path);
    let fault = route.fault_target().and_then(|target| lock(&pod.faults).draw(target));
    let in_flight =
        route.fault_target().filter(|target| *target == FaultTarget::Inference).map(|_| InFlight::new(pod.clone()));
    if let Some(fault) = &fault {
        match fault.kind {
            FaultKind::Hang => std::future::pending().await,
            FaultKind::Reset if fault.after_events() == 0 => {
                connection.reset.store(true, Ordering::Release);
                return Err(Broken);
            }
            FaultKind::Cut if fault.after_events() == 0 => return Err(Broken),
            FaultKind::SlowHeaders => {
                tokio::time::sleep(fault.delay()).await;
            }
            FaultKind::Status => {
                tokio::time::sleep(fault.delay()).await;
                let status = fault.status();
                let response = Response::server_error(status, "The simulator was told to answer this.");
                return Ok(finish(pod, response, in_flight));
            }
            FaultKind::Garbage => return Ok(finish(pod, route.garbage(&body), in_flight)),
            FaultKind::Huge => return Ok(huge(pod, fault.bytes())),
            FaultKind::DisableLogStats => {
                let page = metrics_page::without_engine(pod);
                return Ok(finish(pod, Response::new(200, Some(metrics_page::CONTENT_TYPE), page), in_flight));
            }
            FaultKind::Redirect => {
                let mut response = Response::empty(307);
                response.headers.extend(HeaderValue::from_str(fault.location()).ok().map(|to| (LOCATION, to)));
                return Ok(finish(pod, response, in_flight));
            }
            _ => {}
        }
    }
    let mut response = route.respond(pod, path, headers, &body).await;
    let mut reset = false;
    if let Some(fault) = &fault {
        reset = fault.kind == FaultKind::Reset;
        response = break_off(response, fault);
    }
    if reset {
        connection.reset.store(true, Ordering::Release);
    }
    Ok(finish(pod, response, in_flight))
}

/// Lets the response end as the fault wants it.
fn break_off(mut response: Response, fault: &FaultSpec) -> Response {
    let how = match fault.kind {
        FaultKind::Unterminated => {
            if let ResponseBody::Events(stream) = &mut response.body {
                stream.end_as(Ending::Unterminated);
            }
            return response;
        }
        FaultKind::Reset | FaultKind::Cut => Break::Cut,
        FaultKind::Short => Break::Short,
        FaultKind::Stall => Break::Stall,
        FaultKind::ErrorEvent => Break::ErrorEvent,
        FaultKind::Status
        | FaultKind::Hang
        | FaultKind::SlowHeaders
        | FaultKind::Garbage
        | FaultKind::Huge
        | FaultKind::DisableLogStats
        | FaultKind::Redirect => return response,
    };
    match &mut response.body {
        ResponseBody::Events(stream) => stream.end_as(Ending::Broken { after: fault.after_events(), how }),
        ResponseBody::Whole(body) => match how {
            Break::ErrorEvent => {
                return Response::server_error(500, ENGINE_DEAD);
            }
            Break::Short => body.truncate(body.len() / 2),
            Break::Cut | Break::Stall => {
                let whole = body.clone();
                response.body = ResponseBody::Half(whole, how);
            }
        },
        ResponseBody::Half(..) => {}
    }
    response
}

/// A metrics page of comments without end.
fn huge(pod: &Arc<Pod>, bytes: u64) -> HttpResponse {
    let mut chunk = b"# an endless page\n".repeat(HUGE_CHUNK / 18);
    chunk.truncate(HUGE_CHUNK);
    let chunk = Bytes::from(chunk);
    let frames = unfold(bytes, move |left| {
        let chunk = chunk.clone();
        async move {
            if left == 0 {
                return None;
            }
            let size = left.min(chunk.len() as u64);
            let piece = chunk.slice(..size as usize);
            Some((Ok::<_, Broken>(Frame::data(piece)), left - size))
        }
    });
    let response = Response::new(200, Some(metrics_page::CONTENT_TYPE), Bytes::new());
    let mut response = finish(pod, response, None);
    *response.body_mut() = BodyExt::boxed_unsync(StreamBody::new(frames));
    response
}

/// Makes HTTP of a response, with the headers every response of vLLM has, and the pod's name.
fn finish(pod: &Arc<Pod>, response: Response, in_flight: Option<InFlight>) -> HttpResponse {
    let Response { status, content_type, headers: own, body } = response;
    let mut announced = None;
    let body = match body {
        ResponseBody::Whole(bytes) => Full::new(bytes).map_err(|never: Infallible| match never {}).boxed_unsync(),
        ResponseBody::Events(stream) => events_body(*stream, in_flight),
        ResponseBody::Half(bytes, how) => {
            announced = Some(bytes.len());
            half_body(&bytes, how, in_flight)
        }
    };
    let mut response = HttpResponse::new(body);
    if let Ok(status) = http::StatusCode::from_u16(status) {
        *response.status_mut() = status;
    }
    let headers = response.headers_mut();
    headers.insert(SERVER, HeaderValue::from_static("uvicorn"));
    headers.extend(own);
    if let Some(length) = announced {
        headers.insert(http::header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    if let Some(content_type) = content_type {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    }
    headers.insert(VARY, HeaderValue::from_static("Origin"));
    if let Ok(name) = HeaderValue::from_str(&pod.name) {
        headers.insert(POD_HEADER, name);
    }
    if pod.config.enable_request_id_headers
        && let Ok(id) = HeaderValue::from_str(&format!("{}{}", pod.new_id(), pod.new_id()))
    {
        headers.insert(REQUEST_ID_HEADER, id);
    }
    response
}

fn events_body(stream: EventStream, in_flight: Option<InFlight>) -> HttpBody {
    let frames: Pin<Box<dyn Stream<Item = Result<Frame<Bytes>, Broken>> + Send>> =
        Box::pin(unfold((stream, in_flight), |(mut stream, in_flight)| async {
            let event = stream.next().await?;
            Some((event.map(Frame::data), (stream, in_flight)))
        }));
    BodyExt::boxed_unsync(StreamBody::new(frames))
}

fn half_body(bytes: &Bytes, how: Break, in_flight: Option<InFlight>) -> HttpBody {
    let first = bytes.slice(..bytes.len() / 2);
    let frames = unfold((Some(first), in_flight), move |(first, in_flight)| async move {
        match first {
            Some(bytes) => Some((Ok(Frame::data(bytes)), (None, in_flight))),
            None if how == Break::Stall => std::future::pending().await,
            None => Some((Err(break_soon().await), (None, in_flight))),
        }
    });
    BodyExt::boxed_unsync(StreamBody::new(frames))
}
