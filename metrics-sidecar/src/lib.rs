//! The metrics sidecar: a small process beside Envoy that reads the model servers' load, hands it to the filter as a snapshot,
//! and serves the metrics page that an endpoint picker would serve.
//!
//! ```text
//!  discovery ──targets──▶ state ◀──signals── signals ◀──bytes── scrape (answer)
//!                           │
//!                           ├──▶ serve /snapshot
//!                           └──▶ gauges ──▶ page ◀── Envoy's /stats/prometheus ──▶ serve /metrics
//! ```
//!
//! `answer`, `config`, `exposition`, `gauges`, `page`, `signals` and `state` are pure: time, bytes and seeds come in as arguments.

pub mod config;
pub mod discovery;
pub mod endpoint;
pub mod exposition;
pub mod fleet;
pub mod gauges;
pub mod outcome;
pub mod page;
pub mod pool;
pub mod published;
pub mod response;
pub mod scrape;
pub mod signals;

mod convention;
mod envoy_page;
mod gathered;
mod listing;
mod polling;
mod series;
mod serve;
mod shared;
mod sidecar;
mod token_file;
mod tokens;

pub use sidecar::{Running, Sidecar};
