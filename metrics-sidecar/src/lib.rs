//! The metrics sidecar: a small process beside Envoy that reads the model servers' load, hands it to the filter as a snapshot,
//! and serves the metrics page that an endpoint picker would serve.
//!
//! ```text
//!  listing ──targets──▶ fleet ◀──signals── signals (dialect) ◀──bytes── polling ◀── scrape (response)
//!                         │ ◀──models──── models ◀─────────────bytes──────┘
//!                         ├──▶ published ──▶ serve /snapshot
//!                         └──▶ gauges ──▶ page ◀── Envoy's /stats/prometheus ──▶ envoy_page ──▶ serve /metrics
//!                                                                                     └──▶ otlp ──▶ a collector
//! ```
//!
//! Imports point down: `sidecar` starts `serve`, `listing` and `polling`, which know `shared`, which knows the pure rest. Pure are all
//! but these, `envoy_page`, `scrape`, `token_file`, `tokens` and, of `otlp`, `collector`, `pusher` and `source`: time, bytes and seeds come in as arguments.

pub mod access;
pub mod api_server;
pub mod config;
pub mod contents;
pub mod counters;
pub mod dialect;
pub mod discovery;
pub mod eds;
pub mod endpoint;
pub mod exposition;
pub mod flags;
pub mod fleet;
pub mod format;
pub mod gauges;
pub mod models;
#[cfg(feature = "otlp")]
pub mod otlp;
pub mod outcome;
pub mod page;
pub mod pool;
pub mod process;
pub mod profilers;
pub mod profiling;
pub mod progress;
pub mod published;
pub mod response;
pub mod scrape;
pub mod settings;
pub mod signals;
pub mod tls;
pub mod tls_files;

mod audience;
mod claim;
mod cluster;
mod connections;
mod convention;
#[cfg(feature = "cpu-profile")]
mod cpu_profile;
mod durations;
mod eds_writer;
mod embedded;
mod envoy_page;
mod failures;
mod foreign;
mod gate;
mod gathered;
#[cfg(feature = "heap-profile")]
mod heap_profile;
mod kubernetes_flags;
#[cfg(feature = "kubernetes")]
mod kubernetes_listing;
mod lines;
mod listening;
mod listing;
mod live;
mod lora;
mod paths;
mod polling;
#[cfg(any(feature = "cpu-profile", feature = "heap-profile"))]
mod profile_format;
mod profile_routes;
mod request;
mod reviews;
mod route;
mod series;
mod serve;
mod shared;
mod sidecar;
#[cfg(any(feature = "cpu-profile", feature = "heap-profile"))]
mod symbols;
mod token_file;
mod tokens;

pub use embedded::{Embedded, Fetched, Vitals};
pub use sidecar::{Running, Sidecar};
