//! The numbers of proxy-wasm ABI 0.2.1 that cross the boundary. `filter/tests/abi.rs` compares them with the SDK's.

/// The status of a call that did what it was asked for.
pub(crate) const OK: u32 = 0;

/// The host answered with this status instead of [`OK`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Refused(pub(crate) u32);

/// A compare-and-swap found that the value had changed.
pub(crate) const CAS_MISMATCH: Refused = Refused(8);

/// What was returned is not where it was asked to be: the status of a failure of the host.
pub(crate) const FOREIGN_MEMORY: Refused = Refused(10);

/// A local reply has no gRPC status.
pub(crate) const NO_GRPC_STATUS: i32 = -1;

/// Whether a stream goes on when its callback returns.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u32)]
pub(crate) enum Action {
    Continue = 0,
    Pause = 1,
}

/// Header maps.
#[derive(Clone, Copy)]
pub(crate) enum Map {
    Request = 0,
    Response = 2,
    CallResponse = 6,
}

/// Buffers.
#[derive(Clone, Copy)]
pub(crate) enum Buffer {
    RequestBody = 0,
    ResponseBody = 1,
    CallResponseBody = 4,
    PluginConfiguration = 7,
}
