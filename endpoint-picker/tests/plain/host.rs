//! What a host says of a stream, as plain values. Tests, examples and the package `fuzz` include this file.

use std::net::SocketAddr;

use endpoint_picker::Timestamp;
use endpoint_picker::exchange::StreamInfo;

/// What Envoy would say of the stream.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Info {
    /// The time, in microseconds.
    pub(crate) micros: u64,
    pub(crate) upstream: Option<SocketAddr>,
    pub(crate) attempts: Option<u64>,
    /// `None`: it cannot say.
    pub(crate) tried: Option<&'static [SocketAddr]>,
    pub(crate) details: Option<&'static str>,
    pub(crate) flags: Option<u64>,
}

impl StreamInfo for Info {
    fn now(&mut self) -> Timestamp {
        Timestamp::from_micros(self.micros)
    }

    fn upstream_address(&mut self) -> Option<SocketAddr> {
        self.upstream
    }

    fn attempts(&mut self) -> Option<u64> {
        self.attempts
    }

    fn tried(&mut self) -> Option<Vec<SocketAddr>> {
        self.tried.map(<[_]>::to_vec)
    }

    fn code_details(&mut self) -> Option<Vec<u8>> {
        self.details.map(|details| details.as_bytes().to_vec())
    }

    fn response_flags(&mut self) -> Option<u64> {
        self.flags
    }
}
