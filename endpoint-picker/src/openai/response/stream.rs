//! The facts of an event stream.

use super::event::{Choices, Counts, Event, IdAt, is_known_type, is_terminal_type};
use super::facts::{Ending, Progress, ResponseFacts};
use super::pattern::Pattern;
use crate::openai::api::Api;
use crate::openai::json::{ScanError, Scanner};
use crate::openai::response_id::ResponseId;
use crate::openai::sse::{Item, Pending};

#[derive(Clone, Debug)]
pub(super) struct Stream {
    api: Option<Api>,
    scanner: Scanner,
    event: Event,
    /// An event is being scanned part by part.
    in_parts: bool,
    pattern: Pattern,
    facts: ResponseFacts,
    counts: Counts,
    evidence: Evidence,
}

/// What tells how a stream ended.
#[derive(Clone, Copy, Debug, Default)]
struct Evidence {
    /// Any event came.
    has_events: bool,
    /// One of them was of a known API.
    is_known: bool,
    /// One of them was not JSON.
    is_malformed: bool,
    /// The terminal event came.
    is_terminated: bool,
    /// The event came that reports usage behind all choices.
    has_final_usage: bool,
    choices: Choices,
}

impl Evidence {
    /// The ending of a stream that carried an error or not, and whose end cut an event or not.
    fn ending(&self, has_error: bool, is_cut: bool) -> Ending {
        if self.is_malformed {
            Ending::Malformed
        } else if self.is_terminated || self.has_final_usage || self.choices.are_finished() || has_error {
            Ending::Complete
        } else if self.is_known || is_cut || !self.has_events {
            Ending::Truncated
        } else {
            Ending::Unknown
        }
    }
}

impl Stream {
    /// Nothing read yet. Without `api` the API is told from the form of the usage.
    pub(super) fn new(api: Option<Api>) -> Self {
        Self {
            api,
            scanner: Scanner::new(),
            event: Event::default(),
            in_parts: false,
            pattern: Pattern::default(),
            facts: ResponseFacts::default(),
            counts: Counts::default(),
            evidence: Evidence::default(),
        }
    }

    /// The facts of the whole stream. `pending` is the event that its end cut, if that is known.
    pub(super) fn facts(mut self, is_cut: bool, pending: Option<Pending>) -> ResponseFacts {
        if let Some(Pending { name, data }) = pending {
            self.pending(&name, &data);
        }
        let has_error = self.facts.error.is_some();
        let ending = self.evidence.ending(has_error, is_cut);
        ResponseFacts { usage: self.counts.usage(self.api), ending, ..self.facts }
    }

    /// The id under which the response can be asked for, once it came.
    pub(super) const fn response_id(&self) -> Option<ResponseId> {
        self.facts.response_id
    }

    /// Takes what the stream brings next.
    pub(super) fn take(&mut self, item: Item<'_>, progress: &mut Progress) {
        match item {
            Item::Event { name, data } => {
                if self.pattern.matches(name, data) {
                    self.content(progress);
                    return;
                }
                self.begin();
                // A failure lasts, and the end asks for it.
                let _ = self.scanner.feed(data, &mut self.event);
                let is_json = self.end(name, is_done(data), progress);
                if is_json && self.event.is_plain_content() && !is_terminal_type(name) {
                    self.pattern.learn(name, data, self.event.content_range());
                }
            }
            Item::Part(part) => {
                if !self.in_parts {
                    self.begin();
                    self.in_parts = true;
                }
                let _ = self.scanner.feed(part, &mut self.event);
            }
            Item::End { name } => {
                self.in_parts = false;
                self.end(name, false, progress);
            }
        }
    }

    fn begin(&mut self) {
        self.scanner.reset();
        self.event.reset();
        self.event.is_model_known = self.facts.model.is_some();
        if self.api == Some(Api::Responses) && self.facts.response_id.is_none() {
            self.event.id_at = IdAt::Whole;
        }
    }

    /// Ends a scanned event and returns whether it was JSON.
    fn end(&mut self, name: &[u8], is_done: bool, progress: &mut Progress) -> bool {
        let result = self.scanner.finish(&mut self.event);
        if result.is_err() {
            self.event.reset();
        }
        let event = &mut self.event;
        if event.bears_content {
            self.facts.content_events += 1;
            progress.content_events += 1;
            progress.first_content |= self.facts.content_events == 1;
        }
        self.counts.merge(&event.counts);
        if self.facts.error.is_none() {
            self.facts.error = event.error(name);
        }
        if self.facts.model.is_none() {
            self.facts.model = event.model.take();
        }
        self.facts.response_id = self.facts.response_id.or(event.response_id);
        let is_terminal = is_done || event.is_terminal || is_terminal_type(name);
        progress.terminal |= is_terminal;
        let evidence = &mut self.evidence;
        evidence.has_events = true;
        evidence.is_known |= event.is_known || is_known_type(name);
        // Data of no bytes carries nothing that could be malformed.
        evidence.is_malformed |= !is_done && result.is_err_and(|error| error != ScanError::Empty);
        evidence.is_terminated |= is_terminal;
        evidence.has_final_usage |= event.is_final_usage();
        evidence.choices.merge(event.choices);
        result.is_ok()
    }

    /// Takes an event that the end of the stream cut: what is whole but for the empty line that ends it still shows that the server
    /// had come to its end, and the usage in it is the request's. Content in it is not counted, since no client gets to see it.
    fn pending(&mut self, name: &[u8], data: &[u8]) {
        if is_done(data) {
            self.evidence.is_terminated = true;
            return;
        }
        self.begin();
        let _ = self.scanner.feed(data, &mut self.event);
        if self.scanner.finish(&mut self.event).is_ok() {
            self.evidence.is_terminated |= self.event.is_terminal || is_terminal_type(name);
            self.evidence.has_final_usage |= self.event.is_final_usage();
            self.evidence.choices.merge(self.event.choices);
            self.counts.merge(&self.event.counts);
        }
    }

    fn content(&mut self, progress: &mut Progress) {
        self.facts.content_events += 1;
        progress.content_events += 1;
        progress.first_content |= self.facts.content_events == 1;
    }
}

fn is_done(data: &[u8]) -> bool {
    data.trim_ascii() == b"[DONE]"
}
