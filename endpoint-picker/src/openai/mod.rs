//! What an OpenAI-compatible exchange says about itself, read from bytes as they come.
//!
//! Nothing here keeps a body: requests and buffered answers are scanned by a resumable JSON scanner ([`json`]), forms by a
//! resumable reader of their parts ([`multipart`]), streams by a resumable event reader ([`sse`]). Where a chunk is cut never changes
//! an answer, and a chunk may be handed over in slices of any size, empty ones included.

mod api;
pub mod json;
pub mod media;
pub mod multipart;
mod prefix;
pub mod request;
pub mod response;
mod response_id;
pub mod sse;

pub use api::Api;
pub use prefix::{PrefixMark, PromptDigest};
pub use request::{Edit, Model, Notation, RequestError, RequestFacts, RequestScanner, ScanOptions, USAGE_MEMBER};
pub use response::{Ending, ErrorEvent, Progress, ResponseFacts, ResponseReader, Usage};
pub use response_id::{MAX_RESPONSE_ID_BYTES, ResponseId};
