//! The reader of one request body.

use alloc::boxed::Box;
use core::fmt;

use super::facts::{RequestError, RequestFacts, ScanOptions};
use super::form::Form;
use super::json_body::JsonBody;
use crate::openai::api::Api;
use crate::openai::json::Scanner;
use crate::openai::media::{self, MediaType};
use crate::openai::multipart::MultipartReader;

/// Reads the facts of one request body, chunk by chunk, keeping none of it but the facts.
///
/// Member names and string values may be written with escapes. Of a member given twice the last one counts, as for the
/// servers' parsers. Members of a wrong type are as if they were absent, except `model`: judging them is for the server.
/// `stream` and `include_usage` also take the forms that vLLM's validation takes for a boolean (`"true"`, `"on"`, `1`, …).
/// `stream` also stands for speech with a `stream_format` of `sse`.
///
/// Of a form, the parts `model`, `stream`, `stream_include_usage`, `max_completion_tokens` and `priority` are read; a part with a
/// file name is a file, whatever its name.
///
/// # Prefix hashes
///
/// A prompt is read as a list of leaves: every string (the bytes between its quotes as written) and every number, in body
/// order, each followed by the byte 0xFF. The leaves of a chat are those below `messages` whatever their names, so roles,
/// texts, tool calls and images all count, while white space, member names and `null` do not. Of the other APIs the leaves
/// are those below the members that hold their input: `prompt`, `input`, `inputs`, `texts`, `images`, `data`, `query`, `queries`,
/// `documents`, `items`, `text_1`, `text_2`, `data_1`, `data_2`; of an invocation, those below all that an API may have.
/// Leaves below `tools`, `system` and `instructions` form a preamble, which stands before the prompt wherever it is in the body,
/// because that is where chat templates put it.
///
/// Preamble and prompt are each cut into blocks: 32 of `prefix_block_bytes`, and from there on each 16 blocks are twice as long as those
/// before; a last block that is not full has no hash. With xxh3-64 under a seed, a block's hash is
/// `h(i) = xxh3(le(xxh3(block(i))), seed = h(i - 1))` from `h(-1) = 0`. The end of the body mixes in what may come anywhere in it:
/// `s = xxh3(le(xxh64(salt)), seed = xxh3(model))` with `cache_salt` as written (0 for its hash without one), the preamble's hashes
/// become `xxh3(le(h), seed = s)`, and the prompt's `xxh3(le(h), seed = xxh3(le(p), seed = s))` where `p` is the hash of the whole
/// preamble with its last part. Of both together, the first `max_prefix_blocks` are given, each with the bytes before it.
#[derive(Clone)]
pub struct RequestScanner {
    api: Api,
    body: Body,
}

#[derive(Clone)]
enum Body {
    Json(Box<(Scanner, JsonBody)>),
    Form(Box<(MultipartReader, Form)>),
}

impl RequestScanner {
    /// A scanner at the start of a JSON body.
    pub fn new(api: Api, options: ScanOptions) -> Self {
        Self { api, body: Body::Json(Box::new((Scanner::new(), JsonBody::new(api, options)))) }
    }

    /// A scanner at the start of a form whose parts stand between lines of `boundary`.
    ///
    /// # Errors
    /// When that can be no boundary ([`media::boundary`]).
    pub fn multipart(api: Api, boundary: &[u8], options: ScanOptions) -> Result<Self, RequestError> {
        let reader = MultipartReader::new(boundary).ok_or(RequestError::NoBoundary)?;
        Ok(Self { api, body: Body::Form(Box::new((reader, Form::new(api, options)))) })
    }

    /// A scanner for a body of the type that the value of the `content-type` header names, `None` without that header.
    ///
    /// A body is read as JSON whatever its type says, since judging that is for the server, but for the APIs that take a form: there,
    /// JSON is only what is named so.
    ///
    /// # Errors
    /// When the API takes a form and the type is neither a form nor JSON, or names no boundary.
    pub fn for_content_type(api: Api, content_type: Option<&[u8]>, options: ScanOptions) -> Result<Self, RequestError> {
        if !api.takes_form() {
            return Ok(Self::new(api, options));
        }
        let content_type = content_type.unwrap_or_default();
        match MediaType::of(content_type) {
            MediaType::Json => Ok(Self::new(api, options)),
            MediaType::Form => {
                let boundary = media::boundary(content_type).ok_or(RequestError::NoBoundary)?;
                Self::multipart(api, &boundary, options)
            }
            MediaType::EventStream | MediaType::Other => Err(RequestError::NotAForm),
        }
    }

    /// Takes the next bytes of the body; of none, nothing comes.
    ///
    /// # Errors
    /// As soon as the body cannot become valid any more; every later call gives the same error.
    pub fn feed(&mut self, chunk: &[u8]) -> Result<(), RequestError> {
        match &mut self.body {
            Body::Json(body) => {
                let (scanner, facts) = body.as_mut();
                Ok(scanner.feed(chunk, facts)?)
            }
            Body::Form(body) => {
                let (reader, facts) = body.as_mut();
                Ok(reader.feed(chunk, facts)?)
            }
        }
    }

    /// Ends the body.
    ///
    /// # Errors
    /// When the body is not valid as a whole, else when it is no acceptable request.
    pub fn finish(self) -> Result<RequestFacts, RequestError> {
        match self.body {
            Body::Json(body) => {
                let (mut scanner, mut facts) = *body;
                scanner.finish(&mut facts)?;
                facts.facts(scanner.offset())
            }
            Body::Form(body) => {
                let (reader, facts) = *body;
                reader.finish()?;
                facts.facts(reader.offset())
            }
        }
    }

    /// What the body says as far as it was read, as though it ended there; what follows may say otherwise, and may be no valid body.
    /// The prompt of a body that names no model yet is hashed as one for `assumed`.
    pub fn so_far(&self, assumed: &str) -> RequestFacts {
        match &self.body {
            Body::Json(body) => body.1.so_far(&body.0, assumed),
            Body::Form(body) => body.1.so_far(body.0.offset()),
        }
    }

    /// Whether the body names a model so far.
    pub fn has_model(&self) -> bool {
        match &self.body {
            Body::Json(body) => body.1.has_model(),
            Body::Form(body) => body.1.has_model(),
        }
    }

    /// Whether the body says so far which stored response it continues.
    pub fn has_previous_response(&self) -> bool {
        matches!(&self.body, Body::Json(body) if body.1.has_previous_response())
    }

    /// Whether the body limits so far how many tokens are to be generated.
    pub fn has_max_tokens(&self) -> bool {
        match &self.body {
            Body::Json(body) => body.1.has_max_tokens(),
            Body::Form(body) => body.1.has_max_tokens(),
        }
    }

    /// Whether prefix hashes depend on what is yet to come of the prompt.
    pub fn hashes_more(&self) -> bool {
        matches!(&self.body, Body::Json(body) if body.1.hasher().is_some_and(|hasher| !hasher.is_full()))
    }

    /// The hash of the last mark of the prompt so far, as [`Self::so_far`] would give it; 0: it has none yet. `None`: nothing is hashed.
    pub fn tail(&self, assumed: &str) -> Option<u64> {
        match &self.body {
            Body::Json(body) => body.1.tail(assumed),
            Body::Form(_) => None,
        }
    }

    /// Bytes of the body that were read.
    pub fn offset(&self) -> u64 {
        match &self.body {
            Body::Json(body) => body.0.offset(),
            Body::Form(body) => body.0.offset(),
        }
    }
}

impl fmt::Debug for RequestScanner {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("RequestScanner")
            .field("api", &self.api)
            .field("offset", &self.offset())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openai::request::facts::Model;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn a_request_is_read_across_cuts() {
        let body =
            "{\"messages\":[{\"role\":\"user\",\"content\":\"héllo\"}],\"mod\\u0065l\":\"org/model\",\"stream\":true,\
                    \"stream_options\":{\"include_usage\":\"true\"},\"max_tokens\":16,\"priority\":-2}"
                .as_bytes();
        for place in 0..=body.len() {
            let (head, tail) = body.split_at(place);
            let options = ScanOptions { prefix_block_bytes: 4, ..ScanOptions::default() };
            let mut scanner = RequestScanner::new(Api::ChatCompletions, options);
            scanner.feed(head).unwrap();
            scanner.feed(tail).unwrap();
            let facts = scanner.finish().unwrap();
            let Model::Named { name, value_ranges, .. } = facts.model else { panic!("no model") };
            assert_eq!((name.as_str(), &body[value_ranges[0].clone()]), ("org/model", b"\"org/model\"".as_slice()));
            assert!(facts.stream && facts.include_usage);
            assert_eq!((facts.max_tokens, facts.priority), (Some(16), Some(-2)));
            assert_eq!((facts.prompt_bytes, facts.prompt.marks.len()), (10, 3));
            assert_eq!(facts.body_bytes, body.len() as u64);
        }
    }

    #[test]
    fn an_error_speaks_to_the_client() {
        let mut scanner = RequestScanner::new(Api::Completions, ScanOptions::default());
        let error = scanner.feed(b"{\"model\": }").unwrap_err();
        assert_eq!(error.message(), "Invalid JSON at byte 10: expected a value");
        assert_eq!(scanner.feed(b"{}"), Err(error));
        assert_eq!(scanner.finish(), Err(error));
        assert_eq!(RequestError::ModelNotAString.param(), Some("model"));
    }
}
