//! What a reader of JSON cares for, and what it is told.

use core::ops::Range;

use super::strings::{content_run, short_string};

/// Deepest nesting accepted: `serde_json` counts down from 128 and refuses the level that reaches zero.
pub const MAX_DEPTH: usize = 127;

/// The place of a value among those a [`Watch`] cares for.
pub type Node = u8;

/// The node of values that nobody watches; nothing below such a value is reported.
pub const SKIP: Node = 0;

/// The node of the outermost value.
pub const ROOT: Node = 1;

/// Most decoded bytes of a member name handed to [`Watch::member`]: longer names are cut there, so names to be recognised
/// must be shorter.
pub const MAX_KEY_BYTES: usize = 64;

/// Why a text is not JSON. Where the text is cut makes no difference to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScanError {
    /// No byte but white space.
    #[error("empty input")]
    Empty,
    /// A byte that cannot stand where it stands, or an end that comes too early.
    #[error("byte {offset}: {reason}")]
    Malformed {
        /// Offset of the byte, or the length of the text when it ends too early.
        offset: u64,
        /// What is wrong, as a phrase for a message.
        reason: &'static str,
    },
    /// A string that is not UTF-8.
    #[error("byte {offset}: invalid UTF-8")]
    NotUtf8 {
        /// Offset of the first byte of the invalid sequence.
        offset: u64,
    },
    /// More than [`MAX_DEPTH`] levels of nesting.
    #[error("byte {offset}: nested too deep")]
    TooDeep {
        /// Offset of the bracket that is one too many.
        offset: u64,
    },
}

/// What a [`Watch`] wants of a string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// Only that it was there.
    Nothing,
    /// The decoded text, up to this many bytes.
    Text(usize),
    /// The bytes between the quotes as they stand, piece by piece through [`Watch::raw`].
    Raw,
}

impl Want {
    /// How many leading bytes inside a string need no attention: escapes that nobody reads need no decoding.
    pub(super) fn run(self, bytes: &[u8]) -> usize {
        if let Some(length) = short_string(bytes) {
            return length;
        }
        match self {
            Self::Text(_) => content_run::<false>(bytes),
            Self::Nothing | Self::Raw => content_run::<true>(bytes),
        }
    }

    /// What a string at `node` is to who wants this of it: its last bytes between the quotes are `raw`, and its `text` is decoded where text is
    /// wanted.
    pub(super) fn scalar<'a, W: Watch>(self, node: Node, raw: &[u8], text: &'a [u8], watch: &mut W) -> Scalar<'a> {
        match self {
            Self::Nothing => Scalar::Opaque,
            Self::Raw => {
                watch.raw(node, raw);
                Scalar::Opaque
            }
            Self::Text(limit) => match text.get(..limit) {
                Some(head) if text.len() > limit => Scalar::Text { text: head, cut: true },
                _ => Scalar::Text { text, cut: false },
            },
        }
    }
}

/// A value that is neither array nor object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scalar<'a> {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number, as written.
    Number(&'a [u8]),
    /// A string asked for as [`Want::Text`].
    Text {
        /// The decoded text; when `cut`, its first bytes, which may end inside a character.
        text: &'a [u8],
        /// Whether the text is longer than was asked for.
        cut: bool,
    },
    /// A string that was not asked for as text.
    Opaque,
}

/// A kind of value that holds others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Container {
    /// `[…]`.
    Array,
    /// `{…}`.
    Object,
}

/// What a reader of JSON cares for.
///
/// Nodes number the watched places, starting from [`ROOT`]. Offsets count bytes from the start of the text. Events come in
/// the order of the text and before it is known to be valid as a whole.
pub trait Watch {
    /// The node of the member `key` (decoded) of the object at `node`, or [`SKIP`].
    fn member(&mut self, node: Node, key: &[u8]) -> Node;

    /// The node of the next element of the array at `node`, or [`SKIP`].
    fn element(&mut self, node: Node) -> Node;

    /// What is wanted of a string at `node`.
    fn want(&mut self, node: Node) -> Want;

    /// A value at `node` ended; `range` covers it, quotes included.
    fn scalar(&mut self, node: Node, scalar: Scalar<'_>, range: Range<u64>);

    /// The next raw bytes of a string that was asked for as [`Want::Raw`].
    fn raw(&mut self, _node: Node, _piece: &[u8]) {}

    /// An array or object at `node` begins at offset `at`.
    fn open(&mut self, _node: Node, _container: Container, _at: u64) {}

    /// The array or object at `node` ended before offset `end`.
    fn close(&mut self, _node: Node, _end: u64) {}
}
