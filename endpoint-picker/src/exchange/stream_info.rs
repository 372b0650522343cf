//! What an exchange may ask of its host.

use alloc::vec::Vec;
use core::net::SocketAddr;

use crate::time::Timestamp;

/// What the host knows of a stream and hands out when asked: each question costs a call.
pub trait StreamInfo {
    /// The current time. Asked for only where it is recorded.
    fn now(&mut self) -> Timestamp;
    /// Address of the endpoint that answered, or that was tried last.
    fn upstream_address(&mut self) -> Option<SocketAddr>;
    /// How often an endpoint was tried.
    fn attempts(&mut self) -> Option<u64>;
    /// The endpoints that were tried, in order, the one that answered included; `None`: the host does not know. Fewer than there were attempts
    /// are taken for unknown.
    fn tried(&mut self) -> Option<Vec<SocketAddr>> {
        None
    }
    /// Envoy's details of the response code: `via_upstream`, or why Envoy answered itself.
    fn code_details(&mut self) -> Option<Vec<u8>>;
    /// Envoy's response flags, bit by bit as its access log names them.
    fn response_flags(&mut self) -> Option<u64>;
}
