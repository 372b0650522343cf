//! Coverage-guided fuzzing: one module for each target, each with one `check` that panics when it finds something.
//!
//! A check compares inpick with something plainer: `serde_json`, a reading of a standard over the whole text, the same bytes cut
//! elsewhere, or accounts kept beside it. libFuzzer calls the checks through `targets/`; ordinary tests replay the committed
//! inputs through the same checks (`tests/replay.rs`).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // A panic is a finding.

pub mod envoy_page;
pub mod exchange;
pub mod http_answer;
pub mod metrics_page;
pub mod multipart;
pub mod plugin_config;
pub mod request_scanner;
pub mod response_reader;
pub mod snapshot;
pub mod sse_reader;

mod cut;
#[path = "../../endpoint-picker/tests/plain/event_stream.rs"]
mod event_stream;
#[path = "../../endpoint-picker/tests/plain/host.rs"]
mod host;
mod made;
mod stats;
mod written;

/// A target's check: takes any bytes and panics if a property does not hold.
pub type Check = fn(&[u8]);

/// Every target by the name of its module, its binary and its folders of inputs.
pub const TARGETS: [(&str, Check); 10] = [
    ("envoy_page", envoy_page::check),
    ("exchange", exchange::check),
    ("http_answer", http_answer::check),
    ("metrics_page", metrics_page::check),
    ("multipart", multipart::check),
    ("plugin_config", plugin_config::check),
    ("request_scanner", request_scanner::check),
    ("response_reader", response_reader::check),
    ("snapshot", snapshot::check),
    ("sse_reader", sse_reader::check),
];
