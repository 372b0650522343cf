//! Files that hold bearer tokens.

use std::path::Path;
use std::sync::Arc;

/// Reads a token: one word of visible ASCII, blanks around it left aside.
///
/// # Errors
///
/// What is wrong with the file, never what it holds.
pub(crate) fn read_token(path: &Path) -> Result<Arc<str>, String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    let token = text.trim();
    if !is_token(token) {
        return Err("it does not hold one word of visible ASCII".to_owned());
    }
    Ok(Arc::from(token))
}

/// Reads tokens, one a line; empty lines are left aside.
///
/// # Errors
///
/// What is wrong with the file, never what it holds.
pub(crate) fn read_tokens(path: &Path) -> Result<Vec<String>, String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    let tokens: Vec<String> = text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect();
    if tokens.is_empty() || !tokens.iter().all(|token| is_token(token)) {
        return Err("it does not hold one word of visible ASCII a line".to_owned());
    }
    Ok(tokens)
}

/// Whether a text can be a bearer token.
pub(crate) fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
}
