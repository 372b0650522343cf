//! The numbers of proxy-wasm ABI 0.2.1 and what they mean
//! (<https://github.com/proxy-wasm/spec/tree/main/abi-versions/v0.2.1>).

use std::fmt;

/// The export by which the host allocates guest memory for what it returns.
pub(crate) const ALLOCATE: &str = "proxy_on_memory_allocate";

/// What a host call returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// 0
    Ok,
    /// 1
    NotFound,
    /// 2
    BadArgument,
    /// 3
    SerializationFailure,
    /// 4
    ParseFailure,
    /// 5
    BadExpression,
    /// 6
    InvalidMemoryAccess,
    /// 7
    Empty,
    /// 8
    CasMismatch,
    /// 9
    ResultMismatch,
    /// 10
    InternalFailure,
    /// 11
    BrokenConnection,
    /// 12
    Unimplemented,
}

impl Status {
    /// The number a guest sees.
    #[must_use]
    pub const fn abi(self) -> u32 {
        match self {
            Self::Ok => 0,
            Self::NotFound => 1,
            Self::BadArgument => 2,
            Self::SerializationFailure => 3,
            Self::ParseFailure => 4,
            Self::BadExpression => 5,
            Self::InvalidMemoryAccess => 6,
            Self::Empty => 7,
            Self::CasMismatch => 8,
            Self::ResultMismatch => 9,
            Self::InternalFailure => 10,
            Self::BrokenConnection => 11,
            Self::Unimplemented => 12,
        }
    }
}

/// Everything for which a host call refuses. One flat list with one mapping to the guest's status
/// ([`CallError::status`]), so that no new refusal can fall through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CallError {
    #[error("pointer outside of guest memory")]
    OutOfBounds,
    #[error("the guest has no allocator, or it returned null")]
    NoAllocation,
    #[error("no such map type")]
    UnknownMap,
    #[error("the map is not available now")]
    MapUnavailable,
    #[error("no such header")]
    NoHeader,
    #[error("no such buffer type, or start + size overflows")]
    BadRange,
    #[error("the buffer is not available now")]
    BufferUnavailable,
    #[error("the buffer can be read only")]
    BufferReadOnly,
    #[error("a write into the middle of a buffer")]
    PartialOverlap,
    #[error("no such stream type")]
    UnknownStream,
    #[error("not for upstream TCP streams")]
    StreamUnimplemented,
    #[error("no such context")]
    NoContext,
    #[error("no such property")]
    NoProperty,
    #[error("a group of properties has no value of its own")]
    PropertyGroup,
    #[error("no stream to set a property of")]
    NoStream,
    #[error("no such key")]
    NoKey,
    #[error("compare-and-swap number is stale")]
    CasMismatch,
    #[error("no such queue")]
    NoQueue,
    #[error("the queue is empty")]
    QueueEmpty,
    #[error("no such metric type")]
    UnknownStatKind,
    #[error("no such metric id")]
    NoStat,
    #[error("not allowed for this metric")]
    StatNotAllowed,
    #[error("no such cluster")]
    NoCluster,
    #[error("no :method, :path or :authority")]
    MissingPseudoHeader,
    #[error("timeout above i32")]
    BadTimeout,
    #[error("the call could not be started")]
    CallRefused,
    #[error("no gRPC service of that name")]
    NoGrpcService,
    #[error("no such gRPC token")]
    NoGrpcToken,
    #[error("no such foreign function")]
    NoForeignFunction,
    #[error("nothing is waiting for proxy_done")]
    NothingPending,
}

impl CallError {
    /// The status Envoy returns, by `source/extensions/common/wasm/context.cc` and proxy-wasm-cpp-host
    /// `src/exports.cc`.
    pub(crate) const fn status(self) -> Status {
        match self {
            Self::OutOfBounds | Self::NoAllocation => Status::InvalidMemoryAccess,
            Self::UnknownMap
            | Self::MapUnavailable
            | Self::BadRange
            | Self::BufferReadOnly
            | Self::PartialOverlap
            | Self::UnknownStream
            | Self::NoContext
            | Self::UnknownStatKind
            | Self::StatNotAllowed
            | Self::NoCluster
            | Self::MissingPseudoHeader
            | Self::BadTimeout => Status::BadArgument,
            Self::NoHeader
            | Self::BufferUnavailable
            | Self::NoProperty
            | Self::NoStream
            | Self::NoKey
            | Self::NoQueue
            | Self::NoStat
            | Self::NoGrpcToken
            | Self::NoForeignFunction
            | Self::NothingPending => Status::NotFound,
            Self::PropertyGroup => Status::SerializationFailure,
            Self::CasMismatch => Status::CasMismatch,
            Self::QueueEmpty => Status::Empty,
            Self::CallRefused => Status::InternalFailure,
            Self::NoGrpcService => Status::ParseFailure,
            Self::StreamUnimplemented => Status::Unimplemented,
        }
    }
}

macro_rules! callbacks {
    ($($(#[$doc:meta])* $variant:ident = $export:literal,)*) => {
        /// A callback into the guest; also the phase to which a fault can be restricted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Callback {
            $($(#[$doc])* $variant,)*
        }

        impl Callback {
            pub(crate) const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The export's name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $export,)*
                }
            }
        }
    };
}

callbacks! {
    /// The start of the module: its `proxy_wasm::main!` block.
    Initialize = "_initialize",
    /// A root or stream context is made.
    ContextCreate = "proxy_on_context_create",
    /// The VM starts.
    VmStart = "proxy_on_vm_start",
    /// The plugin is configured.
    Configure = "proxy_on_configure",
    /// The timer of a root context.
    Tick = "proxy_on_tick",
    /// A shared queue has an item.
    QueueReady = "proxy_on_queue_ready",
    /// A `proxy_http_call` has its response or has failed.
    HttpCallResponse = "proxy_on_http_call_response",
    /// Request headers.
    RequestHeaders = "proxy_on_request_headers",
    /// A piece of the request body.
    RequestBody = "proxy_on_request_body",
    /// Request trailers.
    RequestTrailers = "proxy_on_request_trailers",
    /// Response headers.
    ResponseHeaders = "proxy_on_response_headers",
    /// A piece of the response body.
    ResponseBody = "proxy_on_response_body",
    /// Response trailers.
    ResponseTrailers = "proxy_on_response_trailers",
    /// The access log of a stream.
    Log = "proxy_on_log",
    /// The stream is over.
    Done = "proxy_on_done",
    /// The context goes.
    Delete = "proxy_on_delete",
}

impl fmt::Display for Callback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Header maps a guest can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MapKind {
    RequestHeaders,
    RequestTrailers,
    ResponseHeaders,
    ResponseTrailers,
    GrpcInitialMetadata,
    GrpcTrailingMetadata,
    CallResponseHeaders,
    CallResponseTrailers,
}

impl MapKind {
    pub(crate) const fn from_abi(number: u32) -> Result<Self, CallError> {
        Ok(match number {
            0 => Self::RequestHeaders,
            1 => Self::RequestTrailers,
            2 => Self::ResponseHeaders,
            3 => Self::ResponseTrailers,
            4 => Self::GrpcInitialMetadata,
            5 => Self::GrpcTrailingMetadata,
            6 => Self::CallResponseHeaders,
            7 => Self::CallResponseTrailers,
            _ => return Err(CallError::UnknownMap),
        })
    }
}

/// Buffers a guest can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BufferKind {
    RequestBody,
    ResponseBody,
    DownstreamData,
    UpstreamData,
    CallResponseBody,
    GrpcReceive,
    VmConfiguration,
    PluginConfiguration,
    CallData,
}

impl BufferKind {
    pub(crate) const fn from_abi(number: u32) -> Result<Self, CallError> {
        Ok(match number {
            0 => Self::RequestBody,
            1 => Self::ResponseBody,
            2 => Self::DownstreamData,
            3 => Self::UpstreamData,
            4 => Self::CallResponseBody,
            5 => Self::GrpcReceive,
            6 => Self::VmConfiguration,
            7 => Self::PluginConfiguration,
            8 => Self::CallData,
            _ => return Err(CallError::BadRange),
        })
    }
}

/// Streams a guest can continue or close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StreamKind {
    Request,
    Response,
    Downstream,
    Upstream,
}

impl StreamKind {
    pub(crate) const fn from_abi(number: u32) -> Result<Self, CallError> {
        Ok(match number {
            0 => Self::Request,
            1 => Self::Response,
            2 => Self::Downstream,
            3 => Self::Upstream,
            _ => return Err(CallError::UnknownStream),
        })
    }
}

/// Envoy `Grpc::Utility::httpToGrpcStatus`.
pub(crate) const fn grpc_status(http: u16) -> u32 {
    match http {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502..=504 => 14,
        _ => 2,
    }
}
