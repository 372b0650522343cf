//! Sockets: listening, connections, and requests from their first to their last byte.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream::unfold;
use http::header::{CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, SERVER, VARY};
use http::{HeaderMap, Method, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;

use crate::admin;
use crate::config::{Config, ConfigError};
use crate::exchange::{Break, Broken, ENGINE_DEAD, EventStream, break_soon};
use crate::fault::{FaultKind, FaultSpec, FaultTarget};
use crate::http_stats::Served;
use crate::metrics_page;
use crate::pod::{PinnedLoad, Pod, ReceivedRequest, lock};
use crate::reply::{Reply, ReplyBody};
use crate::route::{self, Route};

/// How long reopening a port is tried while others may hold it.
const REOPEN_TRIES: u32 = 100;
const REOPEN_PAUSE: Duration = Duration::from_millis(20);
/// How often draining looks whether all requests are done.
const DRAIN_PAUSE: Duration = Duration::from_millis(10);
/// What a dying server has to send its last answers.
const LAST_WORDS: Duration = Duration::from_millis(100);
/// A body of this size passes in one piece when a page is made huge.
const HUGE_CHUNK: usize = 64 * 1024;
const POD_HEADER: HeaderName = HeaderName::from_static("x-inference-pod");
const REQUEST_ID_HEADER: HeaderName = HeaderName::from_static("x-request-id");

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting cannot work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The port is not to be had.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// A running pod. Dropping it stops it.
#[derive(Debug)]
pub struct Server {
    /// Where it listens.
    pub addr: SocketAddr,
    /// Where the second listener, for /sim alone, listens.
    pub admin_addr: Option<SocketAddr>,
    inner: Arc<Inner>,
    tasks: Vec<AbortHandle>,
}

/// What connections share.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) pod: Arc<Pod>,
    commands: mpsc::Sender<Command>,
    /// Connections whose number is not the one named close when this changes.
    hang_up: watch::Sender<HangUp>,
    refusing: AtomicBool,
}

#[derive(Clone, Copy, Debug, Default)]
struct HangUp {
    round: u64,
    spare: Option<u64>,
    /// Connections with a higher number came later and stay.
    newest: u64,
}

#[derive(Debug)]
enum Command {
    Close(oneshot::Sender<()>),
    Open(oneshot::Sender<bool>),
}

impl Server {
    /// Starts a pod on the current tokio runtime.
    ///
    /// # Errors
    /// A setting that cannot work, or a port that is taken.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        config.engine()?;
        let (listener, addr) = bind(config.address()).await?;
        let admin = match config.admin_port {
            Some(port) => Some(bind(SocketAddr::new(config.host, port)).await?),
            None => None,
        };
        let pod = Arc::new(Pod::new(config, addr)?);
        let (commands, orders) = mpsc::channel(4);
        let inner = Arc::new(Inner {
            pod: pod.clone(),
            commands,
            hang_up: watch::channel(HangUp::default()).0,
            refusing: AtomicBool::new(false),
        });
        let mut tasks = Vec::new();
        for number in 0..pod.config.engines {
            tasks.push(tokio::spawn(pod.clone().drive(number)).abort_handle());
        }
        let accepting = accept(inner.clone(), listener, addr, orders);
        tasks.push(tokio::spawn(accepting).abort_handle());
        let mut admin_addr = None;
        if let Some((listener, addr)) = admin {
            admin_addr = Some(addr);
            let accepting = accept_admin(inner.clone(), listener);
            tasks.push(tokio::spawn(accepting).abort_handle());
        }
        Ok(Self { addr, admin_addr, inner, tasks })
    }

    /// `http://` and the address.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Adds a fault behind those in force.
    pub fn add_fault(&self, fault: FaultSpec) {
        lock(&self.inner.pod.faults).add(fault);
    }

    /// Ends all faults, freezing and draining.
    pub fn clear_faults(&self) {
        lock(&self.inner.pod.faults).clear();
        self.inner.pod.resume();
    }

    /// Shows these figures on `/metrics` in place of the true ones; none shows the true ones again.
    pub fn pin_load(&self, load: Option<PinnedLoad>) {
        self.inner.pod.pin(load);
    }

    /// The engine stands still: `/health` and `/metrics` answer, with values that do not move, and requests hang.
    pub fn freeze(&self) {
        self.inner.pod.freeze();
    }

    /// New requests get 500, those in flight finish, `/health` stays 200.
    pub fn drain(&self) {
        self.inner.pod.drain();
    }

    /// Ends freezing and draining.
    pub fn resume(&self) {
        self.inner.pod.resume();
    }

    /// Closes the port and every connection.
    pub async fn refuse(&self) {
        self.inner.refuse(None).await;
    }

    /// Kills the engine: plain requests in flight get 500, streams an error event and `[DONE]`, and the port closes.
    pub async fn crash(&self) {
        self.inner.crash().await;
    }

    /// Opens the same port again. Returns false when somebody else has it.
    pub async fn accept(&self) -> bool {
        self.inner.reopen().await
    }

    /// What GET /sim/state answers.
    #[must_use]
    pub fn state(&self) -> Value {
        self.inner.state()
    }

    /// The last request that was no probe and no scrape.
    #[must_use]
    pub fn last_request(&self) -> Option<ReceivedRequest> {
        self.inner.pod.last_request()
    }

    /// Drains, then returns when nothing is in flight or `limit` has passed. True when all finished.
    pub async fn finish(&self, limit: Duration) -> bool {
        self.drain();
        let end = Instant::now() + limit;
        while self.inner.pod.in_flight.load(Ordering::Relaxed) > 0 {
            if Instant::now() >= end {
                return false;
            }
            tokio::time::sleep(DRAIN_PAUSE).await;
        }
        true
    }

    /// Closes the port and cuts every connection.
    pub async fn stop(self) {
        self.inner.refuse(None).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.inner.hang_up(None);
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Inner {
    pub(crate) async fn refuse(&self, spare: Option<u64>) {
        self.close().await;
        self.hang_up(spare);
    }

    pub(crate) async fn crash(self: &Arc<Self>) {
        self.close().await;
        self.pod.crash();
        let inner = self.clone();
        let newest = self.pod.connections.load(Ordering::Relaxed);
        tokio::spawn(async move {
            tokio::time::sleep(LAST_WORDS).await;
            inner.hang_up_until(None, newest);
        });
    }

    async fn close(&self) {
        self.refusing.store(true, Ordering::Release);
        let (done, closed) = oneshot::channel();
        if self.commands.send(Command::Close(done)).await.is_ok() {
            let _ = closed.await;
        }
    }

    pub(crate) async fn reopen(&self) -> bool {
        let (done, opened) = oneshot::channel();
        if self.commands.send(Command::Open(done)).await.is_err() {
            return false;
        }
        let open = opened.await.unwrap_or(false);
        if open {
            self.refusing.store(false, Ordering::Release);
        }
        open
    }

    pub(crate) fn state(&self) -> Value {
        self.pod.state(self.refusing.load(Ordering::Acquire))
    }

    pub(crate) fn hang_up(&self, spare: Option<u64>) {
        self.hang_up_until(spare, u64::MAX);
    }

    fn hang_up_until(&self, spare: Option<u64>, newest: u64) {
        self.hang_up.send_modify(|state| {
            state.round += 1;
            state.spare = spare;
            state.newest = newest;
        });
    }
}

async fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let listener = TcpListener::bind(address).await.map_err(|source| StartError::Bind { address, source })?;
    let bound = listener.local_addr().map_err(|source| StartError::Bind { address, source })?;
    Ok((listener, bound))
}

async fn accept(inner: Arc<Inner>, listener: TcpListener, addr: SocketAddr, mut orders: mpsc::Receiver<Command>) {
    let mut listener = Some(listener);
    loop {
        let incoming = async {
            match &listener {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            accepted = incoming => {
                if let Ok((stream, _)) = accepted {
                    let number = inner.pod.connections.fetch_add(1, Ordering::Relaxed) + 1;
                    tokio::spawn(serve(inner.clone(), stream, number, false));
                }
            }
            order = orders.recv() => match order {
                Some(Command::Close(done)) => {
                    listener = None;
                    let _ = done.send(());
                }
                Some(Command::Open(done)) => {
                    if listener.is_none() {
                        listener = reopen(addr).await;
                    }
                    let _ = done.send(listener.is_some());
                }
                None => return,
            },
        }
    }
}

async fn accept_admin(inner: Arc<Inner>, listener: TcpListener) {
    loop {
        if let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(inner.clone(), stream, 0, true));
        }
    }
}

async fn reopen(addr: SocketAddr) -> Option<TcpListener> {
    for _ in 0..REOPEN_TRIES {
        if let Ok(listener) = TcpListener::bind(addr).await {
            return Some(listener);
        }
        tokio::time::sleep(REOPEN_PAUSE).await;
    }
    None
}

/// A connection's socket, which can end in a reset instead of an orderly close.
struct Wire {
    stream: TcpStream,
    reset: Arc<AtomicBool>,
}

impl Drop for Wire {
    fn drop(&mut self) {
        if self.reset.load(Ordering::Acquire) {
            let _ = self.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.reset.load(Ordering::Acquire) {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

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

/// What a request knows of its connection.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    pub(crate) inner: Arc<Inner>,
    pub(crate) number: u64,
    reset: Arc<AtomicBool>,
    admin_only: bool,
}

async fn serve(inner: Arc<Inner>, stream: TcpStream, number: u64, admin_only: bool) {
    let _ = stream.set_nodelay(true);
    let mut hang_up = inner.hang_up.subscribe();
    hang_up.mark_unchanged();
    let _open = OpenConnection::new(inner.pod.clone());
    let connection = Connection { inner, number, reset: Arc::new(AtomicBool::new(false)), admin_only };
    let wire = Wire { stream, reset: connection.reset.clone() };
    let service = service_fn(move |request| handle(connection.clone(), request));
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(wire), service);
    tokio::pin!(serving);
    loop {
        tokio::select! {
            _ = &mut serving => return,
            changed = hang_up.changed(), if !admin_only => {
                let order = *hang_up.borrow_and_update();
                let stays = order.spare == Some(number) || number > order.newest;
                if changed.is_err() || !stays {
                    return;
                }
            }
        }
    }
}

type ResponseBody = UnsyncBoxBody<Bytes, Broken>;

/// Counts a request as in flight for as long as its answer lives.
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

async fn handle(connection: Connection, request: Request<Incoming>) -> Result<Response<ResponseBody>, Broken> {
    let start = Instant::now();
    let pod = connection.inner.pod.clone();
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(|_| Broken)?.to_bytes();
    let path = head.uri.path().to_owned();
    if path == "/sim" || path.starts_with("/sim/") || connection.admin_only {
        let reply = admin::answer(&connection, &head.method, &path, &body).await;
        let refusing = connection.inner.refusing.load(Ordering::Acquire);
        let mut response = finish(&pod, reply, None);
        if refusing && !connection.admin_only {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        return Ok(response);
    }
    let keep = !matches!(path.as_str(), "/metrics" | "/health" | "/ping" | "/load");
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
    let handler = route::handler_name(&pod, &head.method, &path);
    let request_bytes = body.len() as u64;
    let counted = !matches!(handler, "/metrics" | "/health" | "/ping" | "/load" | "/version");
    let response = respond(&connection, &head.method, &path, &head.headers, body).await?;
    if counted {
        let response_bytes = hyper::body::Body::size_hint(response.body()).exact().unwrap_or(0);
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
) -> Result<Response<ResponseBody>, Broken> {
    let pod = &connection.inner.pod;
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
                tokio::time::sleep(Duration::from_millis(fault.delay_ms())).await;
            }
            FaultKind::Status => {
                let status = fault.status();
                let reply = Reply::server_error(status, "The simulator was told to answer this.");
                return Ok(finish(pod, reply, in_flight));
            }
            FaultKind::Garbage => return Ok(finish(pod, route.garbage(&body), in_flight)),
            FaultKind::Huge => return Ok(huge(pod, fault.bytes())),
            _ => {}
        }
    }
    let mut reply = route.answer(pod, headers, &body).await;
    let mut reset = false;
    if let Some(fault) = &fault {
        reset = fault.kind == FaultKind::Reset;
        reply = break_reply(reply, fault);
    }
    if reset {
        connection.reset.store(true, Ordering::Release);
    }
    Ok(finish(pod, reply, in_flight))
}

/// Lets the reply end as the fault wants it.
fn break_reply(mut reply: Reply, fault: &FaultSpec) -> Reply {
    let how = match fault.kind {
        FaultKind::Reset | FaultKind::Cut => Break::Cut,
        FaultKind::Short => Break::Short,
        FaultKind::Stall => Break::Stall,
        FaultKind::ErrorEvent => Break::ErrorEvent,
        FaultKind::Status | FaultKind::Hang | FaultKind::SlowHeaders | FaultKind::Garbage | FaultKind::Huge => {
            return reply;
        }
    };
    match &mut reply.body {
        ReplyBody::Events(stream) => stream.break_after(fault.after_events(), how),
        ReplyBody::Whole(body) => match how {
            Break::ErrorEvent => {
                return Reply::server_error(500, ENGINE_DEAD);
            }
            Break::Short => body.truncate(body.len() / 2),
            Break::Cut | Break::Stall => {
                let whole = body.clone();
                reply.body = ReplyBody::Half(whole, how);
            }
        },
        ReplyBody::Half(..) => {}
    }
    reply
}

/// A metrics page of comments without end.
fn huge(pod: &Arc<Pod>, bytes: u64) -> Response<ResponseBody> {
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
    let reply = Reply::new(200, Some(metrics_page::CONTENT_TYPE), Bytes::new());
    let mut response = finish(pod, reply, None);
    *response.body_mut() = BodyExt::boxed_unsync(StreamBody::new(frames));
    response
}

/// Makes an HTTP response of a reply, with the headers every response of vLLM has, and the pod's name.
fn finish(pod: &Arc<Pod>, reply: Reply, in_flight: Option<InFlight>) -> Response<ResponseBody> {
    let mut announced = None;
    let body = match reply.body {
        ReplyBody::Whole(bytes) => Full::new(bytes).map_err(|never: Infallible| match never {}).boxed_unsync(),
        ReplyBody::Events(stream) => events_body(*stream, in_flight),
        ReplyBody::Half(bytes, how) => {
            announced = Some(bytes.len());
            half_body(&bytes, how, in_flight)
        }
    };
    let mut response = Response::new(body);
    if let Ok(status) = http::StatusCode::from_u16(reply.status) {
        *response.status_mut() = status;
    }
    let headers = response.headers_mut();
    headers.insert(SERVER, HeaderValue::from_static("uvicorn"));
    headers.extend(reply.headers);
    if let Some(length) = announced {
        headers.insert(http::header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    if let Some(content_type) = reply.content_type {
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

fn events_body(stream: EventStream, in_flight: Option<InFlight>) -> ResponseBody {
    let frames: Pin<Box<dyn Stream<Item = Result<Frame<Bytes>, Broken>> + Send>> =
        Box::pin(unfold((stream, in_flight), |(mut stream, in_flight)| async {
            let event = stream.next().await?;
            Some((event.map(Frame::data), (stream, in_flight)))
        }));
    BodyExt::boxed_unsync(StreamBody::new(frames))
}

fn half_body(bytes: &Bytes, how: Break, in_flight: Option<InFlight>) -> ResponseBody {
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
