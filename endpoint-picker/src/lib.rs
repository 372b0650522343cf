//! The endpoint picker's pure core: bytes to facts, facts to a pick, a stream of callbacks to statistics.
//!
//! The law of this crate: it knows no host, clock, socket, file or entropy. Time, seed and bytes are arguments; the same
//! arguments give the same answer. It is `no_std`, so that breaking the law does not compile, and its types are `Send`, so that
//! any kind of host can carry them.
//!
//! The rooms, from the ground up: [`openai`] reads bodies and imports nothing of ours; [`pool`] holds what is known of the
//! endpoints; [`scheduling`] picks and never sees a byte of a body; [`ledger`] keeps the statistics; [`exchange`] is the state
//! machine of one request and its response and the only place that sees all of them.

#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod accounts;
pub mod admission;
pub mod affinity;
pub mod board;
pub mod config;
pub mod director;
mod ending;
pub mod error_type;
pub mod exchange;
pub mod explanation;
pub mod filter_time;
pub mod flow_control;
pub mod flusher;
pub mod gauges;
pub mod go_duration;
pub mod head;
pub mod holder;
pub mod learning;
pub mod lease;
pub mod ledger;
pub mod load_report;
pub mod openai;
pub mod picker;
pub mod policies;
pub mod pool;
pub mod prefix_index;
pub mod prefix_news;
pub mod recent_picks;
pub mod record;
pub mod reply;
pub mod rewrite;
pub mod rng;
pub mod routing;
pub mod rules;
pub mod scheduling;
pub mod session;
pub mod shared_data;
pub mod shared_state;
pub mod slab;
pub mod snapshot_service;
pub mod telemetry;
pub mod time;
pub mod usage_refusals;
pub mod worker;

pub use config::{Config, ConfigError, Plugin};
pub use exchange::{Directive, Exchange};
pub use picker::EndpointPicker;
pub use record::{End, ExchangeRecord};
pub use time::Timestamp;
