//! Hashes of what a prompt begins with, at places that lie further apart the further in they are.

use alloc::boxed::Box;
use alloc::vec::Vec;

use xxhash_rust::{
    xxh3::{Xxh3, xxh3_64, xxh3_64_with_seed},
    xxh64::Xxh64,
};

/// Follows every leaf of a prompt; no byte of UTF-8 has this value.
const LEAF_END: u8 = 0xFF;
/// Blocks of one length; after the first two runs of them, each run has blocks of twice the length. So a place is known to a sixteenth
/// of its distance from the start, and a prompt of 400 KB has 140 marks.
const RUN_BLOCKS: usize = 16;
/// Stands for the hash of a block that nobody read.
const UNREAD_BLOCK: u64 = 0x9E37_79B9_7F4A_7C15;
/// A text without messages has no head: its first blocks stand for its family.
const FAMILY_BLOCKS: usize = 4;

/// A place in a prompt, and the hash of everything before it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PrefixMark {
    /// Hash of all bytes before `end`, of the model and of the salt.
    pub hash: u64,
    /// Bytes of prompt before this place, from the prompt's start.
    pub end: u32,
}

/// What a prompt begins with.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PromptDigest {
    /// In the order of the prompt.
    pub marks: Vec<PrefixMark>,
    /// Hash of what it shares with its family: tools and system prompt, or the first message, or the first bytes. 0: it is too short for a
    /// mark.
    pub family: u64,
    /// Bytes of that.
    pub family_end: u32,
    /// Hash of what all turns of its conversation share: everything to the end of the first message behind a preamble, or else of the
    /// second one. 0: it has no messages, or fewer.
    pub conversation: u64,
    /// More of the prompt was still to come.
    pub is_cut: bool,
}

impl PromptDigest {
    /// The hash of the longest part that has one; 0: the prompt is too short.
    #[must_use]
    pub fn tail(&self) -> u64 {
        self.marks.last().map_or(0, |mark| mark.hash)
    }

    /// Bytes before the last mark.
    #[must_use]
    pub fn end(&self) -> u32 {
        self.marks.last().map_or(0, |mark| mark.end)
    }

    /// Marks what follows the last mark, up to `bytes` of prompt, as a text that nobody read: prompts that begin alike and are cut at the
    /// same place then share as many of these marks as their lengths allow. Blocks as of [`RequestScanner`](super::RequestScanner).
    pub fn extend_unread(&mut self, bytes: u64, block_bytes: usize, max_blocks: usize) {
        if self.marks.is_empty() {
            return;
        }
        let mut chain = PrefixChain::new(block_bytes, max_blocks);
        chain.marks = core::mem::take(&mut self.marks);
        while !chain.is_full() {
            let length = chain.block_length();
            if u64::from(chain.bytes()).saturating_add(length as u64) > bytes {
                break;
            }
            chain.push(UNREAD_BLOCK, length);
        }
        self.marks = chain.marks;
    }
}

/// A chain of block hashes over bytes that come in pieces. Each hash covers its block and, through the chain, all before it.
#[derive(Clone)]
struct PrefixChain {
    block_bytes: usize,
    max_blocks: usize,
    /// The block being filled: its bytes so far.
    open: Option<Box<Xxh3>>,
    open_bytes: usize,
    marks: Vec<PrefixMark>,
}

impl PrefixChain {
    /// An empty chain; neither argument is 0.
    fn new(block_bytes: usize, max_blocks: usize) -> Self {
        Self { block_bytes, max_blocks, open: None, open_bytes: 0, marks: Vec::new() }
    }

    /// Whether no further byte can matter.
    fn is_full(&self) -> bool {
        self.marks.len() >= self.max_blocks
    }

    /// Length of the block that is next to be finished.
    fn block_length(&self) -> usize {
        let doublings = (self.marks.len() / RUN_BLOCKS).max(1) - 1;
        u32::try_from(doublings).ok().and_then(|shift| self.block_bytes.checked_shl(shift)).unwrap_or(usize::MAX)
    }

    /// Takes the next bytes.
    fn extend(&mut self, piece: &[u8]) {
        let mut rest = piece;
        while !rest.is_empty() && !self.is_full() {
            let length = self.block_length();
            if self.open_bytes == 0
                && let Some((block, behind)) = rest.split_at_checked(length)
            {
                self.push(xxh3_64(block), length);
                rest = behind;
                continue;
            }
            let (head, behind) = rest.split_at(rest.len().min(length - self.open_bytes));
            let open = self.open.get_or_insert_with(Box::default);
            open.update(head);
            self.open_bytes += head.len();
            rest = behind;
            if self.open_bytes == length {
                let block = open.digest();
                open.reset();
                self.open_bytes = 0;
                self.push(block, length);
            }
        }
    }

    /// Marks the end of a leaf, so that no two lists of leaves read the same.
    fn end_leaf(&mut self) {
        self.extend(&[LEAF_END]);
    }

    fn push(&mut self, block: u64, length: usize) {
        let before = self.marks.last().copied().unwrap_or(PrefixMark { hash: 0, end: 0 });
        let end = u32::try_from(length).map_or(u32::MAX, |length| before.end.saturating_add(length));
        self.marks.push(PrefixMark { hash: mix(block, before.hash), end });
    }

    /// Bytes of everything.
    fn bytes(&self) -> u32 {
        let whole = self.marks.last().map_or(0, |mark| mark.end);
        whole.saturating_add(u32::try_from(self.open_bytes).unwrap_or(u32::MAX))
    }

    /// The hash of everything, the block that did not get full included.
    fn whole(&self) -> u64 {
        let before = self.marks.last().map_or(0, |mark| mark.hash);
        let open = self.open.as_ref().filter(|_| self.open_bytes > 0);
        mix(open.map_or_else(|| xxh3_64(b""), |open| open.digest()), before)
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

/// The beginning of a prompt.
#[derive(Clone, Copy)]
struct Head {
    /// Whole blocks in it.
    blocks: usize,
    /// Hash of all of it.
    hash: u64,
}

/// Hashes a body's preamble, prompt and salt as they come.
#[derive(Clone)]
pub(super) struct PromptHasher {
    preamble: PrefixChain,
    prompt: PrefixChain,
    /// The prompt to the end of each of its first two messages, once they are over.
    heads: [Option<Head>; 2],
    salt: Xxh64,
    /// Hash of the last whole salt; 0 without one.
    salt_hash: u64,
}

impl PromptHasher {
    /// A hasher of up to `max_blocks` blocks, the first ones of `block_bytes`; `None` if either is 0, so that nothing is ever hashed.
    pub(super) fn new(block_bytes: usize, max_blocks: usize) -> Option<Self> {
        (block_bytes > 0 && max_blocks > 0).then(|| {
            let chain = PrefixChain::new(block_bytes, max_blocks);
            Self { preamble: chain.clone(), prompt: chain, heads: [None; 2], salt: Xxh64::new(0), salt_hash: 0 }
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

    /// A message of the prompt is over.
    pub(super) fn end_message(&mut self) {
        if let Some(head) = self.heads.iter_mut().find(|head| head.is_none()) {
            *head = Some(Head { blocks: self.prompt.marks.len(), hash: self.prompt.whole() });
        }
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

    /// Whether nothing that follows in the prompt can matter.
    pub(super) fn is_full(&self) -> bool {
        self.preamble.marks.len().saturating_add(self.prompt.marks.len()) >= self.prompt.max_blocks
    }

    /// [`PromptDigest::tail`] of what [`Self::digest`] would give.
    pub(super) fn tail(&self, model: &str) -> u64 {
        let Self { preamble, prompt, .. } = self;
        let seed = self.seed(model);
        let room = preamble.max_blocks.saturating_sub(preamble.marks.len());
        match room.min(prompt.marks.len()).checked_sub(1).and_then(|last| prompt.marks.get(last)) {
            Some(mark) => mix(mark.hash, mix(preamble.whole(), seed)),
            None => preamble.marks.last().map_or(0, |mark| mix(mark.hash, seed)),
        }
    }

    /// The hash of what may come anywhere in a body.
    fn seed(&self, model: &str) -> u64 {
        xxh3_64_with_seed(&self.salt_hash.to_le_bytes(), xxh3_64(model.as_bytes()))
    }

    /// What a body for `model` begins with, as far as it came; the model is empty if it names none.
    pub(super) fn digest(&self, model: &str) -> PromptDigest {
        let Self { preamble, prompt, heads, .. } = self;
        let [first_message, second_message] = heads;
        let seed = self.seed(model);
        let inner = mix(preamble.whole(), seed);
        let (first, room) = (preamble.bytes(), preamble.max_blocks.saturating_sub(preamble.marks.len()));
        let family_blocks = match preamble.marks.len() {
            0 => {
                let blocks = first_message.map_or(0, |head| head.blocks);
                if blocks == 0 { FAMILY_BLOCKS } else { blocks }.min(prompt.marks.len().min(room))
            }
            blocks => blocks,
        };
        let turn = if preamble.marks.is_empty() { second_message } else { first_message };
        let conversation = turn.map_or(0, |head| mix(head.hash, inner));
        let mut marks = Vec::with_capacity(preamble.marks.len() + room.min(prompt.marks.len()));
        marks.extend(preamble.marks.iter().map(|mark| PrefixMark { hash: mix(mark.hash, seed), end: mark.end }));
        marks.extend(
            prompt
                .marks
                .iter()
                .take(room)
                .map(|mark| PrefixMark { hash: mix(mark.hash, inner), end: first.saturating_add(mark.end) }),
        );
        let family = family_blocks.checked_sub(1).and_then(|last| marks.get(last)).copied();
        let family = family.unwrap_or(PrefixMark { hash: 0, end: 0 });
        PromptDigest { marks, family: family.hash, family_end: family.end, conversation, is_cut: false }
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

    fn marks(pieces: &[&[u8]], max_blocks: usize) -> Vec<PrefixMark> {
        let mut chain = PrefixChain::new(4, max_blocks);
        for piece in pieces {
            chain.extend(piece);
        }
        chain.marks
    }

    #[test]
    fn pieces_make_no_difference() {
        let text = b"abcdefghijklmn";
        let whole = marks(&[text], 9);
        assert_eq!(whole.len(), 3);
        for first in 0..=text.len() {
            for second in first..=text.len() {
                let pieces = [&text[..first], &text[first..second], &text[second..]];
                assert_eq!(marks(&pieces, 9), whole);
            }
        }
    }

    #[test]
    fn a_chain_stops_at_its_limit() {
        let whole = marks(&[b"abcdefghijklmn"], 9);
        assert_eq!(marks(&[b"abcdefghijklmn"], 2), whole[..2]);
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
            assert_eq!(chain.marks.len(), 4);
        }
    }

    #[test]
    fn places_lie_a_sixteenth_of_their_distance_apart() {
        let ends: Vec<u32> = marks(&[&[7; 4_000]], 100).iter().map(|mark| mark.end).collect();
        assert_eq!(ends[..3], [4, 8, 12]);
        assert_eq!((ends[31], ends[32], ends[47], ends[48]), (128, 136, 256, 272));
        for (before, end) in ends.iter().zip(&ends[1..]).skip(16) {
            assert!(end - before <= before / 16, "{before} {end}");
        }
        for cut in [1, 7, 63, 130, 999] {
            let pieces: Vec<&[u8]> = [7_u8; 4_000].chunks(cut).map(|piece| &[7_u8; 4_000][..piece.len()]).collect();
            assert_eq!(marks(&pieces, 100).len(), ends.len());
        }
    }

    #[test]
    fn turns_of_a_conversation_share_what_others_do_not() {
        let conversation = |preamble: &[u8], messages: &[&[u8]]| {
            let mut hasher = PromptHasher::new(4, 64).unwrap();
            hasher.leaf(Section::Preamble, preamble);
            for message in messages {
                hasher.leaf(Section::Prompt, message);
                hasher.end_message();
            }
            hasher.digest("m").conversation
        };
        let first = conversation(b"", &[b"system", b"hello"]);
        assert_eq!(conversation(b"", &[b"system", b"hello", b"hi", b"more"]), first);
        assert_ne!(conversation(b"", &[b"system", b"hallo"]), first);
        let behind = conversation(b"tools", &[b"hello"]);
        assert_eq!(conversation(b"tools", &[b"hello", b"hi", b"more"]), behind);
        assert_ne!(behind, 0);
        assert_eq!(conversation(b"", &[b"hello"]), 0);
    }

    fn family(preamble: &[u8], head: &[u8], rest: &[u8]) -> u64 {
        let mut hasher = PromptHasher::new(4, 64).unwrap();
        hasher.leaf(Section::Prompt, head);
        hasher.end_message();
        hasher.leaf(Section::Prompt, rest);
        hasher.end_message();
        hasher.leaf(Section::Preamble, preamble);
        hasher.digest("m").family
    }

    #[test]
    fn a_family_shares_its_preamble_or_its_first_message_or_its_first_bytes() {
        let of_preamble = family(b"tools of all", b"hello", b"one");
        assert_eq!(of_preamble, family(b"tools of all", b"other", b"two"));
        assert_ne!(of_preamble, family(b"tools of some", b"hello", b"one"));
        let of_head = family(b"", b"system prompt", b"one and two and three");
        assert_eq!(of_head, family(b"", b"system prompt", b"something else"));
        assert_ne!(of_head, family(b"", b"system PROMPT", b"one and two and three"));
        let of_bytes = family(b"", b"hi", b" there, this is long");
        assert_eq!(of_bytes, family(b"", b"hi", b" there, this is another"));
        assert_eq!(family(b"", b"", b""), 0);
    }

    #[test]
    fn what_nobody_read_is_shared_by_prompts_that_begin_alike() {
        let digest = |text: &[u8], bytes: u64| {
            let mut hasher = PromptHasher::new(4, 64).unwrap();
            hasher.leaf(Section::Prompt, text);
            let mut digest = hasher.digest("m");
            assert_eq!(digest.tail(), hasher.tail("m"));
            let read = digest.marks.clone();
            digest.extend_unread(bytes, 4, 64);
            assert_eq!(digest.marks[..read.len()], read);
            digest.marks
        };
        let (short, long) = (digest(b"begin so", 50), digest(b"begin so", 90));
        assert_eq!(short[..], long[..short.len()]);
        assert_eq!((short.last().unwrap().end, long.last().unwrap().end), (48, 88));
        assert_ne!(digest(b"begin to", 50)[2], short[2]);
        assert_eq!(digest(b"no", 50), []);
        // No more than is kept of a prompt that was read.
        assert_eq!(digest(b"begin so", u64::MAX).len(), 64);
    }
}
