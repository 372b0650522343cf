//! What the command prints. Whoever reads it may have gone, as `head` does, which is no fault of the command's.

use std::fmt::Display;
use std::io::Write as _;

/// Prints all of a text.
///
/// # Errors
///
/// When standard output does not take it, such as once its reader has gone.
pub(crate) fn print(text: &str) -> Result<(), Vec<String>> {
    let mut output = std::io::stdout().lock();
    let printed = output.write_all(text.as_bytes()).and_then(|()| output.flush());
    printed.map_err(|error| vec![format!("standard output: {error}")])
}

/// Says something on standard error, if somebody reads it: the exit code tells as much.
pub(crate) fn tell(what: impl Display) {
    let _ = writeln!(std::io::stderr().lock(), "{what}");
}
