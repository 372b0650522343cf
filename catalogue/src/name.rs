//! How labels travel through Envoy's stat names.

use alloc::borrow::Cow;
use alloc::format;
use alloc::string::String;

use crate::{Label, Stat};

/// Longest label value in bytes. Envoy's matcher is recursive and its stats are never freed, so both need a bound.
pub const MAX_LABEL_VALUE_BYTES: usize = 128;

/// Ends a label within a stat name, so no value may contain it.
const TERMINATOR: char = ';';

/// A value that is safe as a label: no control characters, none of the characters that delimit labels in a stat name, no dots at
/// the end (Envoy's symbol table drops them, and two names would become one), at most [`MAX_LABEL_VALUE_BYTES`] (cut at a
/// character's border). Borrowed when nothing had to change, as for every usual model name.
#[must_use]
pub fn label_value(raw: &str) -> Cow<'_, str> {
    let plain = |character: char| !character.is_control() && character != TERMINATOR;
    if raw.len() <= MAX_LABEL_VALUE_BYTES && !raw.ends_with('.') {
        // Letters outside ASCII are looked at one by one only where there are some.
        let is_usual =
            raw.bytes().fold(true, |usual, byte| usual & (b' '..=b'~').contains(&byte) & (byte != TERMINATOR as u8));
        if is_usual || raw.chars().all(plain) {
            return Cow::Borrowed(raw);
        }
    }
    let mut value = String::with_capacity(MAX_LABEL_VALUE_BYTES);
    for character in raw.chars().map(|character| if plain(character) { character } else { '_' }) {
        if value.len() + character.len_utf8() > MAX_LABEL_VALUE_BYTES {
            break;
        }
        value.push(character);
    }
    let kept = value.trim_end_matches('.').len();
    let dots = value.len() - kept;
    value.truncate(kept);
    value.extend(core::iter::repeat_n('_', dots));
    Cow::Owned(value)
}

/// The stat name under which a series is defined in Envoy: labels, then family and suffix. `labels` are in [`Label`]'s order and
/// their values have been through [`label_value`].
#[must_use]
pub fn stat_name(family: &str, suffix: &str, labels: &[(Label, &str)]) -> String {
    let mut name = String::with_capacity(
        family.len()
            + suffix.len()
            + labels.iter().map(|(label, value)| label.as_str().len() + value.len() + 2).sum::<usize>(),
    );
    for (label, value) in labels {
        name.push_str(label.as_str());
        name.push('=');
        name.push_str(value);
        name.push(TERMINATOR);
    }
    name.push_str(family);
    name.push_str(suffix);
    name
}

/// The regular expression (ECMAScript, as Envoy's `stats_tags` takes it) that cuts a label out of a stat name. Group 1 is what
/// Envoy removes, group 2 the value. Only labels that really stand before it in some family may precede it.
#[must_use]
pub fn tag_regex(label: Label) -> String {
    let mut before = String::new();
    for other in Label::ALL.iter().filter(|other| **other < label) {
        let together = Stat::published_by_envoy().map(Stat::family).any(|family| {
            family.labels.contains(&label)
                && (family.labels.contains(other)
                    || (*other == Label::Le && matches!(family.kind, crate::Kind::Histogram(_))))
        });
        if together {
            before.push_str(&format!("(?:{}=[^;]*;)?", other.as_str()));
        }
    }
    format!(r"^wasmcustom\.{before}({}=([^;]*);)", label.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usual_model_names_survive_untouched() {
        for model in ["meta-llama/Llama-3.1-8B:Instruct@v0", "gpt-4o", "模型", ""] {
            assert!(matches!(label_value(model), Cow::Borrowed(same) if same == model));
        }
    }

    #[test]
    fn a_value_cannot_forge_a_label() {
        assert_eq!(label_value("a.b.."), "a.b__");
        assert_eq!(label_value("m;target_model_name=x;\n\"\0"), "m_target_model_name=x__\"_");
    }

    #[test]
    fn a_long_value_is_cut_at_a_character() {
        let cut = label_value(&"é".repeat(100)).into_owned();
        assert_eq!(cut, "é".repeat(64));
        assert_eq!(label_value(&alloc::format!("x{}", "é".repeat(100))).len(), 127);
    }

    #[test]
    fn labels_stand_before_the_family() {
        assert_eq!(
            stat_name("f", "_bucket", &[(Label::Le, "0.1"), (Label::ModelName, "m")]),
            "le=0.1;model_name=m;f_bucket"
        );
    }

    #[test]
    fn a_regex_admits_only_labels_that_can_stand_before() {
        assert_eq!(tag_regex(Label::Le), r"^wasmcustom\.(le=([^;]*);)");
        assert_eq!(
            tag_regex(Label::TargetModel),
            r"^wasmcustom\.(?:model_rewrite_name=[^;]*;)?(?:model_name=[^;]*;)?(target_model=([^;]*);)"
        );
    }
}
