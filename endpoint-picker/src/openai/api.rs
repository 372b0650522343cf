//! Which inference API a request path names.

/// An inference API whose body names a model, as vLLM serves them. The body is JSON, of the two that read audio a form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Api {
    /// `/v1/chat/completions`.
    ChatCompletions,
    /// `/v1/completions`.
    Completions,
    /// `/v1/responses`.
    Responses,
    /// `/v1/embeddings`, and Cohere's `/v2/embed`.
    Embeddings,
    /// `/v1/messages`, Anthropic's API.
    Messages,
    /// `/v1/rerank`, `/v2/rerank` or `/rerank`.
    Rerank,
    /// `/v1/score`, `/score` or `/generative_scoring`.
    Score,
    /// `/classify` or `/v1/classify`.
    Classify,
    /// `/pooling`.
    Pooling,
    /// `/invocations`, SageMaker's way to any of the JSON APIs: the body's members tell which.
    Invocations,
    /// `/v1/audio/transcriptions`.
    Transcriptions,
    /// `/v1/audio/translations`.
    Translations,
    /// `/v1/audio/speech`.
    Speech,
}

impl Api {
    /// Whether what it answers with is JSON, or events of JSON, and nothing else: others have texts, sound or vectors as bytes.
    #[must_use]
    pub const fn answers_in_json(self) -> bool {
        matches!(
            self,
            Self::ChatCompletions
                | Self::Completions
                | Self::Responses
                | Self::Messages
                | Self::Rerank
                | Self::Score
                | Self::Classify
        )
    }

    /// The API that `path` names, or `None`.
    ///
    /// `path` is the `:path` of the request: a query is ignored, and anything may stand before the API's own path as long as
    /// it ends where a segment ends (`/gw/v1/chat/completions?x=1`). Resources below an API (`/v1/responses/{id}`,
    /// `/v1/messages/count_tokens`) are not that API.
    pub fn from_path(path: &[u8]) -> Option<Self> {
        let end = memchr::memchr2(b'?', b'#', path).unwrap_or(path.len());
        let path = path.get(..end).unwrap_or_default();
        let mut segments = path.rsplit(|&byte| byte == b'/');
        let last = segments.next()?;
        let before = segments.next()?;
        match (before, last) {
            (b"chat", b"completions") => (segments.next()? == b"v1").then_some(Self::ChatCompletions),
            (b"v1", b"completions") => Some(Self::Completions),
            (b"v1", b"responses") => Some(Self::Responses),
            (b"v1", b"embeddings") => Some(Self::Embeddings),
            (b"v1", b"messages") => Some(Self::Messages),
            (b"v2", b"embed") => Some(Self::Embeddings),
            (b"audio", b"transcriptions") => (segments.next()? == b"v1").then_some(Self::Transcriptions),
            (b"audio", b"translations") => (segments.next()? == b"v1").then_some(Self::Translations),
            (b"audio", b"speech") => (segments.next()? == b"v1").then_some(Self::Speech),
            (_, b"rerank") => Some(Self::Rerank),
            (_, b"score" | b"generative_scoring") => Some(Self::Score),
            (_, b"classify") => Some(Self::Classify),
            (_, b"pooling") => Some(Self::Pooling),
            (_, b"invocations") => Some(Self::Invocations),
            _ => None,
        }
    }

    /// A short name for logs and labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ChatCompletions => "chat_completions",
            Self::Completions => "completions",
            Self::Responses => "responses",
            Self::Embeddings => "embeddings",
            Self::Messages => "messages",
            Self::Rerank => "rerank",
            Self::Score => "score",
            Self::Classify => "classify",
            Self::Pooling => "pooling",
            Self::Invocations => "invocations",
            Self::Transcriptions => "transcriptions",
            Self::Translations => "translations",
            Self::Speech => "speech",
        }
    }

    /// OpenTelemetry's `gen_ai.operation.name`: one of its well-known values where there is one, else a name of the same kind.
    /// An invocation may be any of them and has its own.
    pub const fn operation(self) -> &'static str {
        match self {
            Self::ChatCompletions | Self::Responses | Self::Messages => "chat",
            Self::Completions => "text_completion",
            Self::Embeddings => "embeddings",
            Self::Rerank => "rerank",
            Self::Score => "score",
            Self::Classify => "classify",
            Self::Pooling => "pooling",
            Self::Invocations => "invoke",
            Self::Transcriptions => "transcribe",
            Self::Translations => "translate",
            Self::Speech => "speech",
        }
    }

    /// Whether its body is a form with a file (`multipart/form-data`) rather than JSON.
    pub const fn takes_form(self) -> bool {
        matches!(self, Self::Transcriptions | Self::Translations)
    }

    /// Whether `path` asks only for tokens and text to be turned into each other (`/tokenize`, `/detokenize`): work of the API
    /// server that takes no place in the engine, so that any endpoint can answer and nothing is to be counted as inference. Such
    /// a body names a model too, but with one base model in a pool the answer is the same without reading it.
    pub fn is_tokenizer(path: &[u8]) -> bool {
        let end = memchr::memchr2(b'?', b'#', path).unwrap_or(path.len());
        let mut segments = path.get(..end).unwrap_or_default().rsplit(|&byte| byte == b'/');
        let last = segments.next();
        segments.next().is_some() && matches!(last, Some(b"tokenize" | b"detokenize"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn every_served_path_names_its_api() {
        for (path, api) in [
            ("/v1/chat/completions", Some(Api::ChatCompletions)),
            ("/v1/completions", Some(Api::Completions)),
            ("/v1/responses", Some(Api::Responses)),
            ("/v1/embeddings", Some(Api::Embeddings)),
            ("/v1/messages", Some(Api::Messages)),
            ("/v1/rerank", Some(Api::Rerank)),
            ("/v2/rerank", Some(Api::Rerank)),
            ("/rerank", Some(Api::Rerank)),
            ("/v1/score", Some(Api::Score)),
            ("/score", Some(Api::Score)),
            ("/gw/v1/chat/completions?x=1", Some(Api::ChatCompletions)),
            ("/a/b/v1/completions?next=/v1/embeddings", Some(Api::Completions)),
            ("/gw/rerank?", Some(Api::Rerank)),
            ("/v1/responses#top", Some(Api::Responses)),
            ("/v2/embed", Some(Api::Embeddings)),
            ("/generative_scoring", Some(Api::Score)),
            ("/classify", Some(Api::Classify)),
            ("/v1/classify", Some(Api::Classify)),
            ("/pooling", Some(Api::Pooling)),
            ("/invocations", Some(Api::Invocations)),
            ("/gw/invocations?x", Some(Api::Invocations)),
            ("/v1/audio/transcriptions", Some(Api::Transcriptions)),
            ("/gw/v1/audio/translations?x=1", Some(Api::Translations)),
            ("/v1/audio/speech", Some(Api::Speech)),
        ] {
            assert_eq!(Api::from_path(path.as_bytes()), api, "{path}");
        }
    }

    #[test]
    fn other_paths_name_no_api() {
        for path in [
            "",
            "/",
            "v1/completions/",
            "completions",
            "/completions",
            "/chat/completions",
            "/v1/chat/completions/",
            "/v1/chat/completions/batch",
            "/v1/responses/resp_1",
            "/v1/responses/resp_1/cancel",
            "/v1/messages/count_tokens",
            "/xv1/completions",
            "/v1/xcompletions",
            "/v2/completions",
            "/v1/models",
            "/metrics?path=/v1/completions",
            "/V1/Completions",
            "/v1//completions",
            "score",
            "/audio/transcriptions",
            "/v2/audio/transcriptions",
            "/v1/audio/transcriptions/",
            "/v1/audio",
            "/v1/embed",
            "/embed",
            "/classify/",
            "/pooling/x",
            "/invocations/",
            "invocations",
            "/tokenize",
            "/detokenize",
        ] {
            assert_eq!(Api::from_path(path.as_bytes()), None, "{path}");
        }
    }

    #[test]
    fn a_tokenizer_is_known_by_its_path() {
        for path in ["/tokenize", "/detokenize", "/gw/tokenize?x=/y", "/v1/tokenize"] {
            assert!(Api::is_tokenizer(path.as_bytes()), "{path}");
        }
        for path in ["", "/", "tokenize", "/tokenize/", "/xtokenize", "/tokenizer_info", "/x?/tokenize"] {
            assert!(!Api::is_tokenizer(path.as_bytes()), "{path}");
        }
    }
}
