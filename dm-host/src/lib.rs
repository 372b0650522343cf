//! The part of Envoy that faces a dynamic module, for tests: it defines the callbacks that a module is linked against, calls the
//! module's hooks in Envoy's order and on Envoy's threads, and takes nothing on trust.
//!
//! ```no_run
//! use dm_host::{Hooks, HttpMessage, ModuleHost};
//!
//! # fn main() -> Result<(), dm_host::HostError> {
//! let host = ModuleHost::builder(Hooks::linked()).filter("{}").workers(2).build()?;
//! let stream = host.worker(1).request(HttpMessage::post("/v1/chat/completions").body_chunks(["{\"a\":", "1}"]));
//! stream.attempt("10.0.0.1:8000");
//! stream.respond(HttpMessage::response(200).body("done"));
//! assert_eq!(stream.downstream().status(), Some(200));
//! host.shut_down()
//! # }
//! ```
//!
//! - What is lent to a hook is poisoned when it returns ([`POISON`]), and freed under Miri and AddressSanitizer.
//! - Handles are numbers with nothing behind them. One that is no longer valid, a callback of the wrong thread or of a thread that is
//!   none of Envoy's, a status that does not exist, bytes at null: each is a violation, and a host that has seen one fails.
//! - Any callback can be told to refuse ([`Refusal`]).
//! - A stream lives in its worker's thread and is reached without a lock, so races of the module are not hidden.
//!
//! The rules of pausing and of bodies are those of Envoy 1.40.0.

pub mod abi;
mod bootstrap_callbacks;
mod builder;
mod config_state;
mod error;
mod filter_chain;
mod headers;
mod hooks;
mod host;
mod http_callbacks;
mod memory;
mod message;
mod metrics;
mod native_stream;
mod process;
mod refusals;
mod role;
mod scheduler_callbacks;
mod stream_state;
mod worker;

pub use builder::{DEFAULT_BUFFER_LIMIT, ModuleHostBuilder};
pub use error::HostError;
pub use headers::Headers;
pub use hooks::Hooks;
pub use host::{CalloutAnswer, ModuleHost, StreamWorker};
pub use memory::POISON;
pub use message::HttpMessage;
pub use metrics::{MetricValues, SeriesName};
pub use native_stream::NativeStream;
pub use process::{Callout, LoggedLine};
pub use refusals::{CallbackName, Refusal};
pub use stream_state::{Finish, Forwarded, MetadataValue, ProxyReply};
