//! Listeners: connections are taken, secured and served, each on its own, so that none waits for another's client.

use std::convert::Infallible;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::ConnectInfo;
use axum::http::{Request, Response};
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tower_service::Service as _;
use tracing::warn;

use crate::connections::{Admitted, Answering, Connection, Connections, MOST_CONNECTIONS, Open};
use crate::tls_files::Certificates;

/// After a failure that is no client's, such as too few file descriptors, the next connection is tried so much later.
const PAUSE: Duration = Duration::from_millis(50);
/// The same if an idle connection was told to end for it, which it does within one turn of the runtime.
const SHORT_PAUSE: Duration = Duration::from_millis(1);
/// What goes on and on is logged this often.
const LOG_INTERVAL: Duration = Duration::from_secs(60);
/// How long answers under way may take once the sidecar is told to stop.
const GOODBYE: Duration = Duration::from_millis(300);
/// Most bytes of a request's head, and of an answer's that wait to be sent. Tokens of Kubernetes have some 1 to 4 KB.
const BUFFER: usize = 64 * 1024;

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(pub(crate) SocketAddr);

impl Peer {
    /// Whether it is on this machine.
    pub(crate) const fn is_loopback(self) -> bool {
        self.0.ip().to_canonical().is_loopback()
    }
}

/// What makes connections of this certificate's secure.
///
/// # Errors
///
/// When the cryptography cannot be set up.
pub(crate) fn tls(certificates: &Arc<Certificates>) -> io::Result<TlsAcceptor> {
    let config = certificates.server_config().map_err(io::Error::other)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Serves until `closed` turns true, then until the answers under way are sent, for which there is a moment. `tls`: over TLS.
pub(crate) async fn run(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    router: Router,
    mut closed: watch::Receiver<bool>,
) {
    let connections = Arc::new(Connections::default());
    let mut tasks = JoinSet::new();
    let (mut crowded, mut failing) = (Seldom::default(), Seldom::default());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = tasks.join_next() => continue,
            // A sender that is gone means the same as one that says so.
            _ = closed.wait_for(|closed| *closed) => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                let now = Instant::now();
                let open = match connections.admit(now) {
                    Admitted::In(open) => open,
                    Admitted::Instead(open) => {
                        if let Some(count) = crowded.tell(now) {
                            warn!(
                                most = MOST_CONNECTIONS,
                                count, "so many connections are open, idle ones are closed for new ones"
                            );
                        }
                        open
                    }
                    Admitted::Refused => {
                        if let Some(count) = crowded.tell(now) {
                            warn!(most = MOST_CONNECTIONS, count, "so many connections are busy, new ones are refused");
                        }
                        continue;
                    }
                };
                tasks.spawn(serve(stream, tls.clone(), Peer(peer), open, router.clone(), closed.clone()));
            }
            // The client has gone again.
            Err(error) if is_of_client(&error) => {}
            Err(error) => {
                if let Some(count) = failing.tell(Instant::now()) {
                    warn!(%error, count, "connections cannot be accepted, idle ones are closed for them");
                }
                let pause = if connections.dismiss_one() { SHORT_PAUSE } else { PAUSE };
                tokio::time::sleep(pause).await;
            }
        }
    }
    drop(listener);
    let ending = async { while tasks.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(GOODBYE, ending).await;
}

fn is_of_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// Serves one connection for as long as its client keeps its times.
async fn serve(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    peer: Peer,
    open: Open,
    router: Router,
    closed: watch::Receiver<bool>,
) {
    let connection = open.connection();
    // Answers are short, and written at once.
    let _ = stream.set_nodelay(true);
    let served = async {
        match tls {
            None => answer(stream, peer, connection, router, closed).await,
            Some(tls) => {
                // A client that speaks no TLS is no news.
                if let Ok(stream) = tls.accept(stream).await {
                    answer(stream, peer, connection, router, closed).await;
                }
            }
        }
    };
    tokio::select! {
        () = served => {}
        () = overdue(connection) => {}
        () = connection.dismissed() => {}
    }
}

/// Returns once the client has taken too long.
async fn overdue(connection: &Connection) {
    /// How often a connection that is answered is looked at again.
    const LOOK: Duration = Duration::from_secs(1);
    loop {
        let now = Instant::now();
        match connection.deadline() {
            Some(deadline) if deadline <= now => return,
            Some(deadline) => tokio::time::sleep_until(deadline.min(now + LOOK)).await,
            None => tokio::time::sleep(LOOK).await,
        }
    }
}

/// Answers requests until the client has no more, or the listener closes.
async fn answer(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    peer: Peer,
    connection: &Arc<Connection>,
    router: Router,
    mut closed: watch::Receiver<bool>,
) {
    connection.greeted(Instant::now());
    let service = service_fn(|request: Request<Incoming>| {
        let answering = connection.answering();
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(ConnectInfo(peer));
        let mut router = router.clone();
        async move {
            let response = router.call(request).await?;
            Ok::<Response<Answer>, Infallible>(response.map(|body| Answer { body, _until: answering }))
        }
    });
    let stream = TokioIo::new(Heard { stream, connection: Arc::clone(connection) });
    let mut serving = std::pin::pin!(http1::Builder::new().max_buf_size(BUFFER).serve_connection(stream, service));
    tokio::select! {
        // Whatever ends a connection is its client's, and no news.
        _ = &mut serving => return,
        _ = closed.wait_for(|closed| *closed) => {}
    }
    serving.as_mut().graceful_shutdown();
    let _ = serving.await;
}

/// A body that is an answer under way until it was handed on.
struct Answer {
    body: Body,
    _until: Answering,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A stream whose connection learns when bytes come.
struct Heard<S> {
    stream: S,
    connection: Arc<Connection>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Heard<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, into);
        if into.filled().len() > before {
            self.connection.heard(Instant::now());
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Heard<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// Something that happens on and on, and is told seldom.
#[derive(Debug, Default)]
struct Seldom {
    told: Option<Instant>,
    count: u64,
}

impl Seldom {
    /// It happened; how often since it was last told, if it is to be told now.
    fn tell(&mut self, now: Instant) -> Option<u64> {
        self.count += 1;
        let is_due = self.told.is_none_or(|told| now.duration_since(told) >= LOG_INTERVAL);
        is_due.then(|| {
            self.told = Some(now);
            std::mem::take(&mut self.count)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_on_is_told_once_a_minute_with_how_often_it_happened() {
        let (begin, mut seldom) = (Instant::now(), Seldom::default());
        let told: Vec<Option<u64>> =
            [0, 1, 59, 60, 61, 125].map(|seconds| seldom.tell(begin + Duration::from_secs(seconds))).to_vec();
        assert_eq!(told, [Some(1), None, None, Some(3), None, Some(2)]);
    }
}
