//! A proxy-wasm host for tests: any filter module built for ABI 0.2, run on wasmtime, with virtual time,
//! scripted upstreams, injected statuses, a trace of every crossing, and Envoy's rules for pausing,
//! buffering, local replies and VM failures.
//!
//! ```no_run
//! use std::time::Duration;
//! use host_sim::{Host, HttpOutcome, Request, Response};
//!
//! # fn main() -> Result<(), host_sim::Error> {
//! let host = Host::builder()
//!     .module("filter.wasm")
//!     .plugin_configuration(r#"{"pool":"a"}"#)
//!     .allow_on_headers_stop_iteration(true)
//!     .workers(2)
//!     .cluster("backend", [HttpOutcome::response(200, "ok")])
//!     .build()?;
//! host.advance(Duration::from_secs(1));
//! let stream = host.request(Request::post("/v1/chat/completions").body_chunks(["{\"a\":", "1}"]).worker(1))?;
//! assert_eq!(stream.local_reply(), None);
//! assert_eq!(stream.sent_upstream().body(), b"{\"a\":1}");
//! stream.respond(Response::new(200).body("done"))?;
//! assert_eq!(stream.response_status(), Some(200));
//! assert_eq!(host.stats().counter("requests"), Some(1));
//! # Ok(())
//! # }
//! ```
//!
//! Rules of pausing, buffering and failing are those of Envoy 1.40.0. Each is written next to its code with the scenario that
//! shows it there: the integration test `fidelity` of the package `tests` plays every scenario on this host and on that Envoy,
//! and both must agree. `host-sim/README.md` has the rules in one table, and where this host differs.
//!
//! A cluster's function must not call the host: both are behind one lock.

mod abi;
mod attributes;
mod body;
mod builder;
mod clock;
mod codes;
mod error;
mod faults;
mod filter_chain;
mod headers;
mod host;
mod hostcalls;
mod http_call;
mod http_stream;
mod memory;
mod message;
mod module;
mod pairs;
mod property;
mod settings;
mod shared_core;
mod shared_data;
mod state;
mod stats;
mod stream;
mod trace;
mod vm;
mod wasi;

pub use builder::HostBuilder;
pub use clock::DEFAULT_WALL_START;
pub use codes::{Callback, Status};
pub use error::Error;
pub use faults::Fault;
pub use headers::HeaderMap;
pub use host::Host;
pub use http_call::{HttpCall, HttpOutcome};
pub use http_stream::{HttpStream, StreamProgress};
pub use message::{Downstream, Message, Request, Response, Upstream};
pub use module::CompiledModule;
pub use pairs::{MAX_PAIRS, MAX_PAIRS_BYTES};
pub use property::PropertyValue;
pub use settings::{
    DEFAULT_BUFFER_LIMIT, DEFAULT_FUEL_LIMIT, DEFAULT_MEMORY_LIMIT, DEFAULT_RELOAD_BACKOFF, FailurePolicy,
};
pub use stats::{StatKind, Stats};
pub use stream::{LocalReply, ReplyOrigin, Sent, StreamEnd};
pub use trace::{Cost, Crossings, Direction, LogLine, Record, VmName};
