//! From a prompt's text to token counts and block hashes, without a tokenizer.
//!
//! A token is four bytes of text, the rule of thumb for English. Equal text therefore gives equal tokens and equal leading text
//! equal leading blocks, which is all that queueing and prefix caching need.

use serde_json::Value;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::engine::Prompt;

/// Bytes that count as one token.
pub const BYTES_PER_TOKEN: usize = 4;

/// Tokens of a text of `bytes` bytes, at least 1.
#[must_use]
pub fn token_count(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(BYTES_PER_TOKEN).max(1)).unwrap_or(u32::MAX)
}

/// A prompt given as text. `salt` keeps prompts of different adapters or cache salts apart.
#[must_use]
pub fn from_text(text: &str, block_size: u32, salt: u64) -> Prompt {
    Prompt {
        tokens: token_count(text.len()),
        blocks: hash_blocks(text.as_bytes(), block_size as usize * BYTES_PER_TOKEN, salt),
    }
}

/// A prompt given as token ids.
#[must_use]
pub fn from_ids(ids: &[u32], block_size: u32, salt: u64) -> Prompt {
    let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
    Prompt {
        tokens: u32::try_from(ids.len().max(1)).unwrap_or(u32::MAX),
        blocks: hash_blocks(&bytes, block_size as usize * size_of::<u32>(), salt),
    }
}

/// Seed of the block hashes of an adapter and a `cache_salt`.
#[must_use]
pub fn salt(adapter: Option<&str>, cache_salt: Option<&str>) -> u64 {
    let first = xxh3_64_with_seed(adapter.unwrap_or_default().as_bytes(), 0);
    xxh3_64_with_seed(cache_salt.unwrap_or_default().as_bytes(), first)
}

/// Renders chat messages in the manner of a Llama 3 template, ending where the assistant's answer begins.
#[must_use]
pub fn render_chat(system: Option<&Value>, messages: &[Value], tools: Option<&Value>) -> String {
    let mut text = String::from("<|begin|>");
    if let Some(tools) = tools {
        text.push_str(&tools.to_string());
    }
    if let Some(system) = system {
        render_message(&mut text, "system", system);
    }
    for message in messages {
        let role = message.get("role").and_then(Value::as_str).unwrap_or("user");
        render_message(&mut text, role, message.get("content").unwrap_or(&Value::Null));
    }
    text.push_str("<|assistant|>\n\n");
    text
}

fn render_message(text: &mut String, role: &str, content: &Value) {
    text.push_str("<|");
    text.push_str(role);
    text.push_str("|>\n\n");
    render_content(text, content);
    text.push_str("<|end|>");
}

/// Appends the text of a message: a string, or parts of which those with a `text` count in full and others as their JSON.
pub fn render_content(text: &mut String, content: &Value) {
    match content {
        Value::String(content) => text.push_str(content),
        Value::Array(parts) => {
            for part in parts {
                match part.get("text").and_then(Value::as_str) {
                    Some(part) => text.push_str(part),
                    None => text.push_str(&part.to_string()),
                }
            }
        }
        Value::Null => {}
        other => text.push_str(&other.to_string()),
    }
}

fn hash_blocks(bytes: &[u8], block_bytes: usize, salt: u64) -> Vec<u64> {
    let mut parent = salt;
    bytes
        .chunks_exact(block_bytes.max(1))
        .map(|block| {
            parent = xxh3_64_with_seed(block, parent);
            parent
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn four_bytes_are_a_token_and_nothing_is_one_too() {
        assert_eq!(token_count(0), 1);
        assert_eq!(token_count(4), 1);
        assert_eq!(token_count(5), 2);
    }

    #[test]
    fn equal_leading_text_gives_equal_leading_blocks() {
        let one = from_text(&format!("{}{}", "a".repeat(128), "b".repeat(64)), 16, 0);
        let two = from_text(&format!("{}{}", "a".repeat(128), "c".repeat(64)), 16, 0);
        assert_eq!(one.blocks.len(), 3);
        assert_eq!(one.blocks[..2], two.blocks[..2]);
        assert_ne!(one.blocks[2], two.blocks[2]);
    }

    #[test]
    fn adapters_share_no_blocks() {
        let text = "a".repeat(64);
        let base = from_text(&text, 16, salt(None, None));
        let tuned = from_text(&text, 16, salt(Some("lora-a"), None));
        assert_ne!(base.blocks, tuned.blocks);
    }

    #[test]
    fn content_parts_render_like_the_plain_string() {
        let plain = [json!({"role": "user", "content": "hi there"})];
        let parts = [json!({"role": "user", "content": [{"type": "text", "text": "hi there"}]})];
        assert_eq!(render_chat(None, &plain, None), render_chat(None, &parts, None));
    }
}
