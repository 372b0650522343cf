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

pub mod answer;
pub mod config;
pub mod discovery;
pub mod exposition;
pub mod gauges;
pub mod page;
pub mod scrape;
pub mod signals;
pub mod state;

mod serve;
mod sidecar;

pub use sidecar::{Running, Sidecar};
