//! What an endpoint lists under `/v1/models`, from the bytes of its response. Pure.
//!
//! One form for all: an entry has an `id`. vLLM and SGLang add `max_model_len`, and to an adapter its base model as `parent`; llama.cpp
//! adds `aliases`, and the context of a slot as `meta.n_ctx`; TGI adds nothing.

use serde::Deserialize;
use serde_json::Value;
use snapshot::ServedModel;

/// Most entries that are kept: of an endpoint, and of a pool. A pool serves a handful of models; LoRA fleets have hundreds of
/// adapters. This bounds what pods can put into every reader's memory.
pub const MAX_MODELS: usize = 1000;

/// Longest name in bytes; longer ones are left out, since a cut name would match a wrong model.
pub const MAX_NAME_BYTES: usize = 256;

/// What an endpoint serves.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ModelList {
    /// Sorted, each once.
    pub models: Vec<ServedModel>,
    /// Entries that are left out: those without a name of a fitting length, and those beyond [`MAX_MODELS`]. With any, the rest does not
    /// tell what the endpoint does not serve.
    pub left_out: usize,
}

#[derive(Deserialize)]
struct Listing {
    data: Vec<Entry>,
}

/// Fields are looked at one by one: what is wrong with one says nothing of the others.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    id: Value,
    parent: Value,
    max_model_len: Value,
    aliases: Value,
    meta: Value,
}

impl ModelList {
    /// Reads a list; `None`: it is none.
    #[must_use]
    pub fn read(body: &[u8]) -> Option<Self> {
        let listing: Listing = serde_json::from_slice(body).ok()?;
        let mut list = Self::default();
        for entry in &listing.data {
            let parent = entry.parent.as_str().unwrap_or_default();
            let max_model_len = tokens(&entry.max_model_len).or_else(|| tokens(entry.meta.get("n_ctx")?));
            let aliases = entry.aliases.as_array().into_iter().flatten();
            for name in aliases.chain([&entry.id]) {
                let name = name.as_str().unwrap_or_default();
                if name.is_empty() || name.len() > MAX_NAME_BYTES || parent.len() > MAX_NAME_BYTES {
                    list.left_out += 1;
                } else {
                    list.models.push(ServedModel { name: name.to_owned(), parent: parent.to_owned(), max_model_len });
                }
            }
        }
        list.models.sort_unstable();
        list.models.dedup();
        list.left_out += list.models.len().saturating_sub(MAX_MODELS);
        list.models.truncate(MAX_MODELS);
        Some(list)
    }
}

fn tokens(value: &Value) -> Option<u32> {
    u32::try_from(value.as_u64()?).ok().filter(|tokens| *tokens > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(name: &str, parent: &str, max_model_len: Option<u32>) -> ServedModel {
        ServedModel { name: name.to_owned(), parent: parent.to_owned(), max_model_len }
    }

    fn read(body: &str) -> ModelList {
        ModelList::read(body.as_bytes()).unwrap()
    }

    #[test]
    fn vllm_lists_adapters_with_their_parent_and_the_length_of_models() {
        let list = read(include_str!("../tests/fixtures/vllm-0.32-models.json"));
        let base = "meta-llama/Llama-3.1-8B-Instruct";
        let expected = [
            model("llama-alias", "", Some(1024)),
            model("lora-a", base, None),
            model("lora-b", base, None),
            model(base, "", Some(1024)),
        ];
        assert_eq!((list.models, list.left_out), (expected.to_vec(), 0));
    }

    #[test]
    fn other_servers_list_what_they_have() {
        let sglang = r#"{"object":"list","data":[
            {"id":"Qwen/Qwen3-8B","object":"model","created":1,"owned_by":"sglang","root":"Qwen/Qwen3-8B","parent":null,"max_model_len":40960},
            {"id":"sql","object":"model","created":1,"owned_by":"sglang","root":"/adapters/sql","parent":"Qwen/Qwen3-8B","max_model_len":null}]}"#;
        assert_eq!(read(sglang).models, [model("Qwen/Qwen3-8B", "", Some(40960)), model("sql", "Qwen/Qwen3-8B", None)]);
        let llama_cpp = r#"{"models":[{"name":"m.gguf","model":"m.gguf","capabilities":["completion"]}],"object":"list","data":[
            {"id":"m.gguf","aliases":["m.gguf","gpt-4"],"tags":[],"object":"model","created":1,"owned_by":"llamacpp",
             "meta":{"vocab_type":2,"n_vocab":128256,"n_ctx":4096,"n_ctx_train":131072,"n_embd":4096,"n_params":8030261312,"size":4912898304}}]}"#;
        assert_eq!(read(llama_cpp).models, [model("gpt-4", "", Some(4096)), model("m.gguf", "", Some(4096))]);
        let older = r#"{"object":"list","data":[{"id":"/m.gguf","object":"model","owned_by":"llamacpp","meta":{"n_ctx_train":131072}}]}"#;
        assert_eq!(
            read(older).models,
            [model("/m.gguf", "", None)],
            "the length that a model was trained for is no limit of the server"
        );
        let tgi = r#"{"object":"list","data":[{"id":"tiiuae/falcon-7b","object":"model","created":0,"owned_by":"tiiuae/falcon-7b"}]}"#;
        assert_eq!(read(tgi).models, [model("tiiuae/falcon-7b", "", None)]);
        assert_eq!(read(r#"{"data":[]}"#), ModelList::default());
    }

    #[test]
    fn what_does_not_fit_is_left_out_and_counted() {
        let (long, longer) = ("x".repeat(256), "y".repeat(257));
        let list = read(&format!(
            r#"{{"data":[{{"id":"{long}"}},{{"id":"{longer}"}},{{"id":"a","parent":"{longer}"}},{{"id":""}},{{"id":3}},{{}}]}}"#
        ));
        assert_eq!(list, ModelList { models: vec![model(&long, "", None)], left_out: 5 });
        let many: Vec<String> = (0..5000).map(|index| format!(r#"{{"id":"{index}"}}"#)).collect();
        let list = read(&format!(r#"{{"data":[{}]}}"#, many.join(",")));
        assert_eq!((list.models.len(), list.left_out), (MAX_MODELS, 4000));
        let twice = read(
            r#"{"data":[{"id":"m","max_model_len":"long"},{"id":"m","max_model_len":-1},{"id":"m","max_model_len":4294967296}]}"#,
        );
        assert_eq!(twice, ModelList { models: vec![model("m", "", None)], left_out: 0 });
        for body in ["<html>", r#"{"data":3}"#, r#"{"data":null}"#, "[]", ""] {
            assert_eq!(ModelList::read(body.as_bytes()), None, "{body}");
        }
    }
}
