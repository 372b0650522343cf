//! Hashes of a prompt's leading blocks.

use alloc::vec::Vec;

use xxhash_rust::{
    xxh3::{xxh3_64, xxh3_64_with_seed},
    xxh64::Xxh64,
};

/// Follows every leaf of a prompt; no byte of UTF-8 has this value.
const LEAF_END: u8 = 0xFF;

/// A chain of block hashes over bytes that come in pieces. Each hash covers its block and, through the chain, all before it.
#[derive(Clone, Debug)]
struct PrefixChain {
    block_bytes: usize,
    max_blocks: usize,
    /// The block being filled, shorter than `block_bytes`.
    block: Vec<u8>,
    hashes: Vec<u64>,
}

impl PrefixChain {
    /// An empty chain; neither argument is 0.
    fn new(block_bytes: usize, max_blocks: usize) -> Self {
        Self { block_bytes, max_blocks, block: Vec::new(), hashes: Vec::new() }
    }

    /// Whether no further byte can matter.
    fn is_full(&self) -> bool {
        self.hashes.len() >= self.max_blocks
    }

    /// Takes the next bytes.
    fn extend(&mut self, piece: &[u8]) {
        let mut rest = piece;
        while !rest.is_empty() && !self.is_full() {
            if self.block.is_empty()
                && let Some((block, behind)) = rest.split_at_checked(self.block_bytes)
            {
                self.push(block);
                rest = behind;
                continue;
            }
            let room = self.block_bytes - self.block.len();
            let (head, behind) = rest.split_at(rest.len().min(room));
            self.block.extend_from_slice(head);
            rest = behind;
            if self.block.len() == self.block_bytes {
                let block = core::mem::take(&mut self.block);
                self.push(&block);
                self.block = block;
                self.block.clear();
            }
        }
    }

    /// Marks the end of a leaf, so that no two lists of leaves read the same.
    fn end_leaf(&mut self) {
        self.extend(&[LEAF_END]);
    }

    fn push(&mut self, block: &[u8]) {
        let before = self.hashes.last().copied().unwrap_or_default();
        self.hashes.push(xxh3_64_with_seed(block, before));
    }

    /// The hashes of this chain followed by those of `prompt`, under `seed`.
    fn join(self, prompt: &Self, seed: u64) -> Vec<u64> {
        // Everything of the preamble counts for the prompt behind it, the block that did not get full included.
        let before = self.hashes.last().copied().unwrap_or_default();
        let preamble = xxh3_64_with_seed(&self.block, before);
        let inner = mix(preamble, seed);
        let mut hashes = self.hashes;
        for hash in &mut hashes {
            *hash = mix(*hash, seed);
        }
        let room = self.max_blocks.saturating_sub(hashes.len());
        hashes.extend(prompt.hashes.iter().take(room).map(|hash| mix(*hash, inner)));
        hashes
    }
}

/// The part of a prompt that a leaf belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Section {
    /// Stands before the prompt wherever it is in the body.
    Preamble,
    /// The prompt itself.
    Prompt,
}

/// Hashes a body's preamble, prompt and salt as they come.
#[derive(Clone)]
pub(super) struct PromptHasher {
    preamble: PrefixChain,
    prompt: PrefixChain,
    salt: Xxh64,
    /// Hash of the last whole salt; 0 without one.
    salt_hash: u64,
}

impl PromptHasher {
    /// A hasher of up to `max_blocks` blocks of `block_bytes`; `None` if either is 0, so that nothing is ever hashed.
    pub(super) fn new(block_bytes: usize, max_blocks: usize) -> Option<Self> {
        (block_bytes > 0 && max_blocks > 0).then(|| {
            let chain = PrefixChain::new(block_bytes, max_blocks);
            Self { preamble: chain.clone(), prompt: chain, salt: Xxh64::new(0), salt_hash: 0 }
        })
    }

    /// Takes the next bytes of a leaf.
    pub(super) fn leaf(&mut self, section: Section, piece: &[u8]) {
        self.chain(section).extend(piece);
    }

    /// Ends a leaf.
    pub(super) fn end_leaf(&mut self, section: Section) {
        self.chain(section).end_leaf();
    }

    /// Takes the next bytes of a salt.
    pub(super) fn salt(&mut self, piece: &[u8]) {
        self.salt.update(piece);
    }

    /// Ends a salt, which replaces earlier ones; with `is_text` unset it was none.
    pub(super) fn end_salt(&mut self, is_text: bool) {
        self.salt_hash = if is_text { self.salt.digest() } else { 0 };
        self.salt = Xxh64::new(0);
    }

    /// The hashes of a body for `model`, empty if it names none.
    pub(super) fn hashes(self, model: &str) -> Vec<u64> {
        let seed = xxh3_64_with_seed(&self.salt_hash.to_le_bytes(), xxh3_64(model.as_bytes()));
        self.preamble.join(&self.prompt, seed)
    }

    fn chain(&mut self, section: Section) -> &mut PrefixChain {
        match section {
            Section::Preamble => &mut self.preamble,
            Section::Prompt => &mut self.prompt,
        }
    }
}

fn mix(hash: u64, seed: u64) -> u64 {
    xxh3_64_with_seed(&hash.to_le_bytes(), seed)
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn hashes(pieces: &[&[u8]], max_blocks: usize) -> Vec<u64> {
        let mut chain = PrefixChain::new(4, max_blocks);
        for piece in pieces {
            chain.extend(piece);
        }
        chain.hashes
    }

    #[test]
    fn pieces_make_no_difference() {
        let text = b"abcdefghijklmn";
        let whole = hashes(&[text], 9);
        assert_eq!(whole.len(), 3);
        for first in 0..=text.len() {
            for second in first..=text.len() {
                let pieces = [&text[..first], &text[first..second], &text[second..]];
                assert_eq!(hashes(&pieces, 9), whole);
            }
        }
    }

    #[test]
    fn a_chain_stops_at_its_limit() {
        let whole = hashes(&[b"abcdefghijklmn"], 9);
        assert_eq!(hashes(&[b"abcdefghijklmn"], 2), whole[..2]);
    }

    #[test]
    fn hashing_that_is_off_has_no_hasher() {
        assert!(PromptHasher::new(64, 0).is_none());
        assert!(PromptHasher::new(0, 256).is_none());
        assert!(PromptHasher::new(64, 256).is_some());
    }

    #[test]
    fn a_block_off_the_multiples_of_the_lane_is_hashed_too() {
        for block_bytes in [1, 3, 300] {
            let mut chain = PrefixChain::new(block_bytes, 4);
            chain.extend(&[7; 1200]);
            assert_eq!(chain.hashes.len(), 4);
        }
    }
}
