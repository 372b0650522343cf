//! What is lent to a hook is the module's only until the hook returns, or until it edits what it was lent.

use crate::support::{asking, host};

#[test]
#[cfg(not(any(miri, sanitized)))]
fn a_header_value_that_is_kept_is_poison_in_the_next_hook() {
    let host = host();
    let stream = host.request(asking("keep").body("a"));
    assert_eq!(crate::support::noted(&stream, "kept").as_deref(), Some("[de, de, de, de]"));
}

#[test]
#[cfg(not(any(miri, sanitized)))]
fn an_edit_of_a_body_ends_what_was_lent_of_it() {
    let host = host();
    let stream = host.request(asking("edit").body("abc"));
    assert_eq!(crate::support::noted(&stream, "edited").as_deref(), Some("true Some([de, de, de])"));
}

#[test]
fn an_edited_body_is_what_goes_on() {
    assert_eq!(host().request(asking("edit").body("abc")).upstream().body, b"bc");
}
