//! What an OpenAI-compatible exchange says about itself, read from bytes as they come.
//!
//! Nothing here keeps a body: requests and buffered answers are scanned by a resumable JSON scanner ([`json`]), streams by
//! a resumable event reader ([`sse`]). Where a chunk is cut never changes an answer.

mod api;
pub mod json;
mod prefix;
pub mod request;
pub mod response;
pub mod sse;

pub use api::Api;
pub use request::{Model, RequestError, RequestFacts, RequestScanner, ScanOptions};
pub use response::{ErrorEvent, Progress, ResponseFacts, ResponseReader, Usage};
