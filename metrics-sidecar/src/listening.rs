//! Listeners for axum that know their peer: plain ones, and ones over TLS whose handshakes hold nobody else up.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::shared::Task;
use crate::tls_files::Certificates;

/// How long a client may take for its handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Handshakes under way at once; further clients wait.
const HANDSHAKES: usize = 64;

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(pub(crate) SocketAddr);

impl Peer {
    /// Whether it is on this machine.
    pub(crate) const fn is_loopback(self) -> bool {
        self.0.ip().to_canonical().is_loopback()
    }
}

/// Accepts connections over TLS.
pub(crate) struct TlsListener {
    accepted: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
    address: SocketAddr,
    _accepting: Task,
}

impl TlsListener {
    /// Accepts from now on.
    ///
    /// # Errors
    ///
    /// When the cryptography cannot be set up.
    pub(crate) fn new(mut listener: TcpListener, certificates: &Arc<Certificates>) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let config = certificates.server_config().map_err(io::Error::other)?;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let (sender, accepted) = mpsc::channel(HANDSHAKES);
        let accepting = Task(tokio::spawn(async move {
            loop {
                // A place for it first, so that connections wait in the kernel and not here.
                let Ok(place) = sender.clone().reserve_owned().await else { return };
                let (stream, peer) = Listener::accept(&mut listener).await;
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    // A client that speaks no TLS, or not in time, is no news.
                    if let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
                        place.send((stream, peer));
                    }
                });
            }
        }));
        Ok(Self { accepted, address, _accepting: accepting })
    }
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.accepted.recv().await {
            Some(accepted) => accepted,
            // The task that accepts has ended, which it does only with the runtime.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

impl Connected<IncomingStream<'_, TcpListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, TcpListener>) -> Self {
        Self(*stream.remote_addr())
    }
}

impl Connected<IncomingStream<'_, TlsListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, TlsListener>) -> Self {
        Self(*stream.remote_addr())
    }
}
