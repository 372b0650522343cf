//! A resumable JSON scanner.
//!
//! A [`Scanner`] takes a text in any number of pieces and accepts exactly what `serde_json` accepts as a
//! `serde_json::Value` from bytes: RFC 8259 with valid UTF-8 and paired surrogates inside strings, finite numbers, and
//! [`MAX_DEPTH`] levels of nesting. It builds no tree: a [`Watch`] says which members it cares for by numbering them, and is
//! told of their values as they end. Everything else is only validated. The only bytes kept are those of a token that a
//! piece cuts or that has escapes: of strings as many as were asked for, of numbers all.

mod numbers;
mod scanner;
mod strings;
mod tokens;
mod watch;

pub(super) use numbers::{signed, unsigned};
pub use scanner::{Scanner, is_string_content};
pub use watch::{Container, MAX_DEPTH, MAX_KEY_BYTES, Node, ROOT, SKIP, Scalar, ScanError, Want, Watch};
