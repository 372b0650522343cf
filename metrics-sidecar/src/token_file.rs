//! Files that hold bearer tokens.

use std::path::Path;
use std::sync::Arc;

/// What some editors write before a text in UTF-8.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// Reads a token: one word of visible ASCII, blanks around it and a byte order mark left aside.
///
/// # Errors
///
/// What is wrong with the file, never what it holds.
pub(crate) fn read_token(path: &Path) -> Result<Arc<str>, String> {
    let text = text(path)?;
    let token = text.trim();
    if !is_token(token) {
        return Err("it does not hold one word of visible ASCII".to_owned());
    }
    Ok(Arc::from(token))
}

/// Reads tokens, one a line; empty lines, blanks around a token and a byte order mark are left aside. One line that is no token leaves none:
/// what is meant by it is not known, and a token that should have been taken away must not stay.
///
/// # Errors
///
/// What is wrong with the file, never what it holds.
pub(crate) fn read_tokens(path: &Path) -> Result<Vec<String>, String> {
    let text = text(path)?;
    let lines = (1..).zip(text.lines().map(str::trim)).filter(|(_, line)| !line.is_empty());
    let token = |(number, line): (usize, &str)| {
        let token = is_token(line).then(|| line.to_owned());
        token.ok_or_else(|| format!("line {number} is not one word of visible ASCII"))
    };
    let tokens = lines.map(token).collect::<Result<Vec<_>, _>>()?;
    if tokens.is_empty() { Err("it holds no token".to_owned()) } else { Ok(tokens) }
}

fn text(path: &Path) -> Result<String, String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    Ok(text.strip_prefix(BYTE_ORDER_MARK).map_or_else(|| text.clone(), str::to_owned))
}

/// Whether a text can be a bearer token.
pub(crate) fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_a_token() {
        assert_eq!(read_tokens(file("\u{feff}first\r\n\n second\t\n").path()).unwrap(), ["first", "second"]);
        assert_eq!(&*read_token(file("\u{feff}first\n").path()).unwrap(), "first");
    }

    #[test]
    fn the_line_that_is_no_token_is_named_and_not_shown() {
        for (text, told) in [
            ("first\n\nsecond third\n", "line 3 is not one word of visible ASCII"),
            ("first # of whom\n", "line 1 is not one word of visible ASCII"),
            ("first\n\u{feff}second\n", "line 2 is not one word of visible ASCII"),
            ("\u{feff}\n \n", "it holds no token"),
            ("", "it holds no token"),
        ] {
            assert_eq!(read_tokens(file(text).path()).unwrap_err(), told, "{text:?}");
        }
        assert!(read_token(file("first second").path()).is_err());
    }
}
