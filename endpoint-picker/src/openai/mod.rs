//! What an OpenAI-compatible exchange says about itself, read from bytes as they come.

mod api;
pub mod request;
pub mod response;

pub use api::Api;
pub use request::{Model, RequestError, RequestFacts, RequestScanner, ScanOptions};
pub use response::{ErrorEvent, Progress, ResponseFacts, ResponseReader, Usage};
