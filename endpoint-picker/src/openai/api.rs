//! Which inference API a request path names.

/// An inference API with a JSON body that names a model, as vLLM serves them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Api {
    /// `/v1/chat/completions`.
    ChatCompletions,
    /// `/v1/completions`.
    Completions,
    /// `/v1/responses`.
    Responses,
    /// `/v1/embeddings`.
    Embeddings,
    /// `/v1/messages`, Anthropic's API.
    Messages,
    /// `/v1/rerank`, `/v2/rerank` or `/rerank`.
    Rerank,
    /// `/v1/score` or `/score`.
    Score,
}

impl Api {
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
            (_, b"rerank") => Some(Self::Rerank),
            (_, b"score") => Some(Self::Score),
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
        }
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
        ] {
            assert_eq!(Api::from_path(path.as_bytes()), None, "{path}");
        }
    }
}
