//! Facts of a response body, buffered or streamed.

mod event;
mod facts;
mod pattern;
mod reader;
mod stream;

pub use facts::{Ending, ErrorEvent, MAX_KIND_BYTES, MAX_MODEL_BYTES, Progress, ResponseFacts, Usage};
pub use reader::{JsonReader, ResponseReader, StreamReader};
