//! A simulated vLLM model server, close enough to the real one that what works here works there.
//!
//! [`Server::start`] runs a pod on any free port inside a test; the binary `vllm-sim` runs one from the shell. Its shapes are those
//! of vLLM 0.32.0: the pages and bodies in `tests/fixtures` were recorded from it, and tests compare against them.
//!
//! - [`engine`]: the scheduler over virtual time: continuous batching, KV blocks with a prefix cache, preemption, LoRA slots.
//! - [`fault`]: what can go wrong on purpose.
//! - `/sim/*`: set faults, pin the advertised load, read back what the pod received. Real vLLM has none of it, nor the
//!   `x-inference-pod` response header.
//!
//! Answers are words without meaning, a function of seed and prompt; a token is four bytes of text. With `speed` 0 the engine
//! answers at once, so that nothing but the caller decides how long a test takes.

mod admin;
mod api;
pub mod config;
mod connection;
mod control;
pub mod engine;
pub mod fault;
pub mod histogram;
mod http_stats;
mod metrics_page;
mod pod;
mod process;
pub mod prompt;
mod refusal;
mod response;
mod response_store;
mod route;
mod server;
mod stream;
pub mod text;
mod ticket;
mod wire;

pub use config::{Config, ConfigError, MetricsDialect, Runner, TimingModel};
pub use fault::{FaultKind, FaultSpec, FaultTarget};
pub use pod::{PinnedLoad, ReceivedRequest};
pub use server::{Server, StartError};
