//! The answers: words without meaning, the same for the same seed and prompt.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// One word a token. None needs escaping inside JSON.
const WORDS: &[&str] = &[
    " the", " of", " and", " to", " in", " is", " that", " it", " was", " for", " on", " are", " with", " as", " at",
    " be", " this", " have", " from", " or", " one", " had", " by", " word", " but", " not", " what", " all", " were",
    " we", " when", " your", " can", " said", " there", " use", " an", " each", " which", " she", " do", " how",
    " their", " if", " will", " up", " other", " about", " out", " many", " then", " them", " these", " so", " some",
    " her", " would", " make", " like", " him", " into", " time", " has", " look",
];

/// The words of one answer.
#[derive(Clone, Copy, Debug)]
pub struct Words {
    key: u64,
}

impl Words {
    /// Words for a prompt whose hash is `prompt`, choice `choice`.
    #[must_use]
    pub fn new(seed: u64, prompt: u64, choice: usize) -> Self {
        Self { key: xxh3_64_with_seed(&prompt.to_le_bytes(), seed).wrapping_add(choice as u64) }
    }

    /// The word of token `index`.
    #[must_use]
    pub fn word(self, index: u32) -> &'static str {
        let hash = xxh3_64_with_seed(&index.to_le_bytes(), self.key);
        WORDS.get((hash % WORDS.len() as u64) as usize).copied().unwrap_or(" the")
    }

    /// The first `tokens` words.
    #[must_use]
    pub fn text(self, tokens: u32) -> String {
        (0..tokens).map(|index| self.word(index)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_seed_and_prompt_give_the_same_answer() {
        assert_eq!(Words::new(1, 2, 0).text(9), Words::new(1, 2, 0).text(9));
        assert_ne!(Words::new(1, 2, 0).text(9), Words::new(2, 2, 0).text(9));
        assert_ne!(Words::new(1, 2, 0).text(9), Words::new(1, 3, 0).text(9));
    }

    #[test]
    fn words_need_no_escaping() {
        for word in WORDS {
            assert!(word.bytes().all(|byte| byte == b' ' || byte.is_ascii_lowercase()));
        }
    }
}
