//! Facts of a response body, buffered or streamed.

mod event;
mod facts;
mod pattern;
mod reader;
mod stream;
mod usage_event;
mod usage_refusal;

pub use facts::{Ending, ErrorEvent, MAX_KIND_BYTES, MAX_MODEL_BYTES, Progress, ResponseFacts, Usage};
pub use reader::{JsonReader, ResponseReader, StreamReader};
pub use usage_event::UsageEventRemover;
pub use usage_refusal::RefusalReader;
