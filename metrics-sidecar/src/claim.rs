//! Addresses to listen on: held at once, or as soon as whoever has them lets go.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpListener;
use tracing::{info, warn};

/// Between two tries for an address that another listener has. A try takes microseconds.
const RETRY: Duration = Duration::from_millis(250);

/// What becomes of a sidecar one of whose addresses another listener has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum IfTaken {
    /// It does not start: who started it sees why.
    Fail,
    /// It starts, and listens there once it can. Inside a proxy the other listener is as a rule the sidecar of the configuration, or of the
    /// process, that is drained meanwhile, for minutes in which picks need the pods' load.
    Wait,
}

/// An address, and whether it is held.
#[derive(Debug)]
pub(crate) enum Claim {
    /// It is.
    Held(TcpListener),
    /// Another listener has it.
    Awaited(SocketAddr),
}

impl Claim {
    /// Tries to hold an address.
    ///
    /// # Errors
    ///
    /// When it cannot be listened on; the error names the address.
    pub(crate) async fn stake(address: SocketAddr, if_taken: IfTaken) -> io::Result<Self> {
        match (TcpListener::bind(address).await, if_taken) {
            (Ok(listener), IfTaken::Fail) => Ok(Self::Held(listener)),
            (Ok(listener), IfTaken::Wait) => {
                info!("the sidecar listens on {}", listener.local_addr()?);
                Ok(Self::Held(listener))
            }
            (Err(error), IfTaken::Wait) if error.kind() == io::ErrorKind::AddrInUse => {
                warn!("another listener has {address}: the sidecar works, and listens there once it is free");
                Ok(Self::Awaited(address))
            }
            (Err(error), _) => Err(io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"))),
        }
    }

    /// The address; of one that is held, with the port that the system chose.
    ///
    /// # Errors
    ///
    /// When the system does not know it.
    pub(crate) fn addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Held(listener) => listener.local_addr(),
            Self::Awaited(address) => Ok(*address),
        }
    }

    /// Returns once it is held.
    pub(crate) async fn listener(self) -> TcpListener {
        let address = match self {
            Self::Held(listener) => return listener,
            Self::Awaited(address) => address,
        };
        loop {
            tokio::time::sleep(RETRY).await;
            if let Ok(listener) = TcpListener::bind(address).await {
                info!("the sidecar listens on {address}");
                return listener;
            }
        }
    }
}
