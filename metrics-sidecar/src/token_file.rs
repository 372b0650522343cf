//! A file that holds a bearer token.

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
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("it does not hold one word of visible ASCII".to_owned());
    }
    Ok(Arc::from(token))
}
