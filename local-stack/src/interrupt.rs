//! What ends a program in the foreground.

use std::io;

use tokio::signal::unix::{SignalKind, signal};

/// A future that ends at the first SIGINT, SIGTERM or SIGHUP. From this call on these do not end the process by themselves.
///
/// # Errors
/// The handlers could not be installed.
pub fn interrupted() -> io::Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    })
}
