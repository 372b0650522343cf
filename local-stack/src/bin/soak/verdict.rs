//! What a pod's whole response is worth, as its client judges it.

use local_stack::HttpResponse;
use local_stack::traffic::Job;
use serde_json::Value;

/// What a whole response is worth.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Verdict {
    /// It is what was asked for.
    Good,
    /// It is whole, but not what was asked for: a stream that ended after its last content and without usage, for instance.
    Odd,
    /// The pod refused the request: 4xx other than 429.
    Rejected,
    /// The pod has no room: 429.
    Exhausted,
    /// 5xx, an error inside a response, or what should be JSON and is none.
    Failed,
    /// A stream that ended before its time.
    Truncated,
}

impl Verdict {
    /// Judges a response to that request.
    pub(crate) fn of(job: &Job, response: &HttpResponse) -> Self {
        match response.status.as_u16() {
            429 => return Self::Exhausted,
            400..=499 => return Self::Rejected,
            500.. => return Self::Failed,
            _ if job.check(response).is_ok() => return Self::Good,
            _ => {}
        }
        if !job.streamed {
            return match serde_json::from_slice::<Value>(&response.body) {
                Ok(body) if body.get("error").is_none_or(Value::is_null) => Self::Odd,
                _ => Self::Failed,
            };
        }
        let (mut is_over, mut has_failed) = (false, false);
        for event in response.events().iter().filter(|event| !event.is_empty()) {
            match serde_json::from_str::<Value>(event) {
                Ok(event) => {
                    is_over |= ends_stream(&event);
                    has_failed |= reports_error(&event);
                }
                Err(_) if event == "[DONE]" => is_over = true,
                Err(_) => has_failed = true,
            }
        }
        match (has_failed, is_over) {
            (true, _) => Self::Failed,
            (false, true) => Self::Odd,
            (false, false) => Self::Truncated,
        }
    }
}

/// Whether nothing that follows the event is owed: it ends the stream, finishes its only choice, or reports usage behind all choices.
fn ends_stream(event: &Value) -> bool {
    let kind = event.get("type").and_then(Value::as_str).unwrap_or_default();
    let choices = event.get("choices").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let is_finished = |choice: &Value| choice.get("finish_reason").is_some_and(|reason| reason.as_str().is_some());
    let has_usage = event.get("usage").is_some_and(Value::is_object);
    matches!(kind, "response.completed" | "response.incomplete" | "response.failed")
        || choices.iter().any(is_finished)
        || (has_usage && choices.is_empty())
}

/// Whether a stream says in the event that it failed.
fn reports_error(event: &Value) -> bool {
    event.get("error").is_some_and(|error| !error.is_null())
        || event.get("type").is_some_and(|kind| kind == "response.failed")
}

/// An error as OpenAI clients read it: `{"error": {"message": …}}`.
pub(crate) fn is_error(body: &str) -> bool {
    serde_json::from_str::<Value>(body).is_ok_and(|body| body.pointer("/error/message").is_some_and(Value::is_string))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::{HeaderMap, StatusCode};
    use local_stack::traffic::Call;

    use super::*;

    fn of(streamed: bool, status: u16, body: &str) -> Verdict {
        let job = Job { call: Call::Chat, model: "m", streamed, body: String::new() };
        let response = HttpResponse {
            status: StatusCode::from_u16(status).unwrap(),
            headers: HeaderMap::new(),
            body: body.to_owned().into(),
            first_byte: Duration::ZERO,
            duration: Duration::ZERO,
        };
        Verdict::of(&job, &response)
    }

    #[test]
    fn a_status_says_whose_fault_an_error_is() {
        for (status, verdict) in [
            (400, Verdict::Rejected),
            (404, Verdict::Rejected),
            (429, Verdict::Exhausted),
            (500, Verdict::Failed),
            (503, Verdict::Failed),
        ] {
            assert_eq!(of(false, status, "<html>"), verdict, "{status}");
        }
    }

    #[test]
    fn a_plain_response_must_be_json() {
        let usage = r#"{"usage": {"prompt_tokens": 3, "completion_tokens": 1}}"#;
        assert_eq!(of(false, 200, usage), Verdict::Good);
        assert_eq!(of(false, 200, "{}"), Verdict::Odd);
        assert_eq!(of(false, 200, r#"{"error": {"message": "no"}}"#), Verdict::Failed);
        assert_eq!(of(false, 200, &usage[..20]), Verdict::Failed);
        assert_eq!(of(false, 200, ""), Verdict::Failed);
    }

    #[test]
    fn a_stream_must_come_to_its_end() {
        let content = "data: {\"choices\": [{\"delta\": {\"content\": \"a\"}, \"finish_reason\": null}]}\n\n";
        let finish = "data: {\"choices\": [{\"delta\": {}, \"finish_reason\": \"stop\"}]}\n\n";
        let usage = "data: {\"choices\": [], \"usage\": {\"prompt_tokens\": 3, \"completion_tokens\": 1}}\n\n";
        let error = "data: {\"error\": {\"message\": \"dead\", \"code\": 500}}\n\n";
        let done = "data: [DONE]\n\n";
        for (stream, verdict) in [
            ([content, finish, usage, done].as_slice(), Verdict::Good),
            (&[content, finish, usage], Verdict::Odd),
            (&[content, finish], Verdict::Odd),
            (&[content], Verdict::Truncated),
            (&[], Verdict::Truncated),
            (&["garbage"], Verdict::Truncated),
            (&["data: garbage\n\n"], Verdict::Failed),
            (&[content, error, done], Verdict::Failed),
        ] {
            assert_eq!(of(true, 200, &stream.concat()), verdict, "{stream:?}");
        }
        let failed = "event: response.failed\ndata: {\"type\": \"response.failed\"}\n\n";
        assert_eq!(of(true, 200, failed), Verdict::Failed);
        assert_eq!(
            of(true, 200, "event: response.created\ndata: {\"type\": \"response.created\"}\n\n"),
            Verdict::Truncated
        );
    }
}
