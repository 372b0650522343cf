//! The reader of one response body.

use alloc::boxed::Box;

use super::event::{Event, IdAt};
use super::facts::{Ending, Progress, ResponseFacts};
use super::stream::Stream;
use crate::openai::api::Api;
use crate::openai::json::Scanner;
use crate::openai::media::MediaType;
use crate::openai::response_id::ResponseId;
use crate::openai::sse::SseReader;

/// Reads the facts of one response body, chunk by chunk. No input is an error: what cannot be read yields no facts.
///
/// An event bears content when it adds to what the client gets to see: a non-empty `text`, or a `delta` with a non-empty
/// `content`, `reasoning`, `reasoning_content` or `refusal`, a `tool_calls` or `function_call` that is not empty, of a choice;
/// a non-empty `text`, `thinking` or `partial_json` in the `delta` of a message; a `delta` that is a non-empty string of a
/// response. Roles, pings, comments and life-cycle events bear none.
///
/// # Ends
///
/// A stream's terminal event is `[DONE]`, `message_stop`, one of `response.completed`, `response.incomplete` and `response.failed`,
/// `transcript.text.done`, or `speech.audio.done`. Some servers send none (ik_llama.cpp without a flag, TGI before 2.2), so a stream is
/// [`Ending::Complete`] too once every choice that came has a `finish_reason` that is not empty, once usage came in an event without
/// choices, or with an error: what follows that is not owed. The last event counts for this even without the empty line that should
/// end it.
///
/// A stream is [`Ending::Malformed`] if the data of any event is neither JSON nor `[DONE]` nor blank; [`Ending::Truncated`] if it
/// comes to no such end though an event with choices or of a typed API came, if its end cuts an event, or if there was no event; and
/// [`Ending::Unknown`] if its events are none of a known API.
///
/// A buffered body is complete if it is one JSON value, and malformed otherwise: an empty one is none. Where no body is due (HEAD, 204,
/// 304) the reader must be [`ResponseReader::opaque`].
#[derive(Clone, Debug)]
pub enum ResponseReader {
    /// A buffered JSON body.
    Json(Box<JsonReader>),
    /// An event stream.
    Sse(Box<StreamReader>),
    /// A body of another or unknown kind, of which only the bytes are counted.
    Opaque(u64),
}

impl ResponseReader {
    /// A reader for a buffered JSON body. Without `api` the API is told from the form of the usage.
    pub fn json(api: Option<Api>) -> Self {
        let mut reader = JsonReader { bytes: 0, api, scanner: Scanner::new(), event: Event::default() };
        if api == Some(Api::Responses) {
            reader.event.id_at = IdAt::Root;
        }
        Self::Json(Box::new(reader))
    }

    /// A reader for an event stream. Without `api` the API is told from the form of the usage.
    pub fn sse(api: Option<Api>) -> Self {
        Self::Sse(Box::new(StreamReader { bytes: 0, events: SseReader::default(), stream: Stream::new(api) }))
    }

    /// A reader that only counts bytes.
    pub fn opaque() -> Self {
        Self::Opaque(0)
    }

    /// A reader for a body of the type that the value of its `content-type` header names, whatever was asked for: a server may
    /// answer a request for a stream with JSON, and the other way round.
    pub fn for_content_type(api: Option<Api>, content_type: &[u8]) -> Self {
        match MediaType::of(content_type) {
            MediaType::Json => Self::json(api),
            MediaType::EventStream => Self::sse(api),
            MediaType::Form | MediaType::Other => Self::opaque(),
        }
    }

    /// Takes the next bytes of the body; of none, nothing comes.
    pub fn feed(&mut self, chunk: &[u8]) -> Progress {
        let mut progress = Progress::default();
        let bytes = match self {
            Self::Json(reader) => {
                // A failure lasts, and the end asks for it.
                let _ = reader.scanner.feed(chunk, &mut reader.event);
                &mut reader.bytes
            }
            Self::Sse(reader) => {
                let StreamReader { events, stream, bytes } = reader.as_mut();
                events.feed(chunk, |item| stream.take(item, &mut progress));
                bytes
            }
            Self::Opaque(bytes) => bytes,
        };
        *bytes = bytes.saturating_add(chunk.len() as u64);
        progress
    }

    /// The id under which the response can be asked for later, once it came: of the responses API alone.
    pub const fn response_id(&self) -> Option<ResponseId> {
        match self {
            Self::Json(reader) => reader.event.response_id,
            Self::Sse(reader) => reader.stream.response_id(),
            Self::Opaque(_) => None,
        }
    }

    /// Ends the body.
    pub fn finish(self) -> ResponseFacts {
        match self {
            Self::Json(mut reader) => {
                let facts = ResponseFacts { bytes: reader.bytes, ..ResponseFacts::default() };
                if reader.scanner.finish(&mut reader.event).is_err() {
                    return ResponseFacts { ending: Ending::Malformed, ..facts };
                }
                ResponseFacts {
                    usage: reader.event.counts.usage(reader.api),
                    error: reader.event.error(b""),
                    model: reader.event.model,
                    response_id: reader.event.response_id,
                    ending: Ending::Complete,
                    ..facts
                }
            }
            Self::Sse(reader) => {
                let StreamReader { bytes, events, stream } = *reader;
                ResponseFacts { bytes, ..stream.facts(events.is_within_event(), events.pending()) }
            }
            Self::Opaque(bytes) => ResponseFacts { bytes, ..ResponseFacts::default() },
        }
    }
}

/// The state of a buffered JSON body.
#[derive(Clone, Debug)]
pub struct JsonReader {
    bytes: u64,
    api: Option<Api>,
    scanner: Scanner,
    event: Event,
}

/// The state of an event stream.
#[derive(Clone, Debug)]
pub struct StreamReader {
    bytes: u64,
    events: SseReader,
    stream: Stream,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openai::response::facts::Ending;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn is_send<T: Send + 'static>(_: &T) {}

    const STREAM: &[u8] = b"data: {\"model\":\"m\",\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n\
        data: {\"model\":\"m\",\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n\
        data: {\"model\":\"m\",\"choices\":[{\"delta\":{\"content\":\"\\\"usage\\\"\"}}]}\n\n\
        data: {\"model\":\"m\",\"choices\":[{\"delta\":{\"content\":\"\"}}]}\n\n\
        data: {\"model\":\"m\",\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2,\"total_tokens\":5}}\n\n\
        data: [DONE]\n\n";

    #[test]
    fn a_stream_is_read_across_cuts() {
        for place in 0..=STREAM.len() {
            let (head, tail) = STREAM.split_at(place);
            let mut reader = ResponseReader::sse(None);
            is_send(&reader);
            let progress = [reader.feed(head), reader.feed(tail)];
            assert_eq!(progress.iter().filter(|progress| progress.first_content).count(), 1);
            assert_eq!(progress.iter().map(|progress| progress.content_events).sum::<u32>(), 2);
            assert_eq!(progress.iter().filter(|progress| progress.terminal).count(), 1);
            let facts = reader.finish();
            assert_eq!((facts.content_events, facts.ending), (2, Ending::Complete));
            let usage = facts.usage.unwrap();
            assert_eq!((usage.prompt_tokens, usage.completion_tokens, usage.total_tokens), (Some(3), Some(2), Some(5)));
        }
    }

    #[test]
    fn usage_that_only_lacks_the_empty_line_behind_it_is_counted() {
        let whole = STREAM.strip_suffix(b"data: [DONE]\n\n").unwrap();
        for end in 0..3 {
            let mut reader = ResponseReader::sse(None);
            reader.feed(&whole[..whole.len() - end]);
            let facts = reader.finish();
            assert_eq!(facts.usage.unwrap().total_tokens, Some(5), "without {end} bytes");
            assert_eq!((facts.content_events, facts.ending), (2, Ending::Complete));
        }
    }

    #[test]
    fn a_buffered_answer_is_read_across_cuts() {
        let body = b"{\"type\":\"message\",\"model\":\"m\",\"usage\":{\"input_tokens\":3,\"cache_read_input_tokens\":4,\"output_tokens\":2}}";
        for place in 0..=body.len() {
            let (head, tail) = body.split_at(place);
            let mut reader = ResponseReader::json(Some(Api::Messages));
            assert_eq!([reader.feed(head), reader.feed(tail)], [Progress::default(); 2]);
            let facts = reader.finish();
            let usage = facts.usage.unwrap();
            assert_eq!(
                (usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens),
                (Some(7), Some(2), Some(4))
            );
            assert_eq!((facts.model.as_deref(), facts.ending), (Some("m"), Ending::Complete));
            assert_eq!(facts.bytes, body.len() as u64);
        }
    }
}
