//! Facts of a request body.

mod facts;
mod form;
mod json_body;
mod scanner;
mod stream_options;
mod values;

pub use facts::{
    Edit, MAX_MODEL_BYTES, MAX_MODEL_MEMBERS, MAX_PREFIX_BLOCKS, Model, Notation, PREFIX_BLOCK_BYTES, RequestError,
    RequestFacts, ScanOptions,
};
pub use scanner::RequestScanner;
pub use stream_options::USAGE_MEMBER;
