//! Files that flags name.

use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser};

/// Takes any text for the name of a file, so that an empty one is told beside whatever else is wrong and not instead of it.
pub(crate) fn any_path() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}
