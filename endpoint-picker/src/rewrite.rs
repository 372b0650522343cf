//! Model rewrites: which model is served instead of the one that was asked for, and how the body says so.

use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;

use crate::openai::{Edit, Notation};
use crate::rng::Rng;

/// One rule: requests for a model, or for any, go to weighted targets.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Rule {
    /// Label of its decisions.
    pub name: String,
    /// Exact model name; `None` matches what no exact rule matches.
    pub model: Option<String>,
    /// Not empty.
    pub targets: Vec<Target>,
}

/// A model that a rule may choose.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Target {
    /// Model name that is sent upstream.
    pub model: String,
    /// Share of the requests, relative to the other targets. All zero: equal shares.
    pub weight: u32,
}

impl Rule {
    /// The rule for `model`: an exact one before the default one, earlier ones before later ones, and so the lists.
    #[must_use]
    pub fn find<'a>(lists: &[&'a [Self]], model: &str) -> Option<&'a Self> {
        let mut rules = lists.iter().copied().flatten();
        let exact = rules.clone().find(|rule| rule.model.as_deref() == Some(model));
        exact.or_else(|| rules.find(|rule| rule.model.is_none()))
    }

    /// Draws a target by weight.
    #[must_use]
    pub fn draw(&self, rng: &mut Rng) -> Option<&Target> {
        let total: u64 = self.targets.iter().map(|target| u64::from(target.weight)).sum();
        if total == 0 {
            return self.targets.get(usize::try_from(rng.below(self.targets.len() as u64)).unwrap_or(0));
        }
        let mut left = rng.below(total);
        self.targets.iter().find(|target| {
            let weight = u64::from(target.weight);
            let hit = left < weight;
            left = left.saturating_sub(weight);
            hit
        })
    }
}

/// Other text in the place of some ranges of a body.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Splice {
    /// Ranges of the body, ascending and apart from each other, and what stands in their place.
    edits: Vec<(Range<usize>, Vec<u8>)>,
}

impl Splice {
    /// A new model name in the place of the model's values, which lie in these ranges (of JSON quotes included), ascending.
    #[must_use]
    pub fn rename(ranges: Vec<Range<usize>>, model: &str, notation: Notation) -> Self {
        let text = match notation {
            Notation::Json => serde_json::to_vec(model).unwrap_or_default(),
            Notation::Plain => model.as_bytes().to_vec(),
        };
        Self { edits: ranges.into_iter().map(|range| (range, text.clone())).collect() }
    }

    /// Adds a change of another part of the body.
    pub fn add(&mut self, edit: &Edit) {
        let place = self.edits.partition_point(|(range, _)| range.start <= edit.range.start);
        self.edits.insert(place, (edit.range.clone(), edit.text.as_bytes().to_vec()));
    }

    /// The body spliced and every other byte as it was. A range outside the body is left out.
    #[must_use]
    pub fn apply(&self, body: &[u8]) -> Vec<u8> {
        self.apply_to(&[body])
    }

    /// The same of a body that lies in slices.
    #[must_use]
    pub fn apply_to(&self, slices: &[&[u8]]) -> Vec<u8> {
        let size = slices.iter().map(|slice| slice.len()).sum();
        let mut spliced = Vec::with_capacity(size + self.edits.iter().map(|(_, text)| text.len()).sum::<usize>());
        let mut at = 0;
        for (range, text) in &self.edits {
            if range.start < at || range.start > size || range.end > size {
                continue;
            }
            extend(&mut spliced, slices, at..range.start);
            spliced.extend_from_slice(text);
            at = range.end;
        }
        extend(&mut spliced, slices, at..size);
        spliced
    }

    /// Bytes of the body's beginning behind which nothing changes: a host that can replace those alone need not touch the rest.
    #[must_use]
    pub fn end(&self) -> usize {
        self.edits.last().map_or(0, |(range, _)| range.end)
    }

    /// The length of a body of so many bytes once it is spliced.
    #[must_use]
    pub fn length(&self, bytes: u64) -> u64 {
        self.edits.iter().fold(bytes, |bytes, (range, text)| {
            bytes.saturating_add(text.len() as u64).saturating_sub(range.end.saturating_sub(range.start) as u64)
        })
    }
}

/// Adds a range of what lies in slices.
fn extend(bytes: &mut Vec<u8>, slices: &[&[u8]], range: Range<usize>) {
    let mut begin = 0;
    for slice in slices {
        let end = begin + slice.len();
        let part = range.start.clamp(begin, end) - begin..range.end.clamp(begin, end) - begin;
        bytes.extend_from_slice(slice.get(part).unwrap_or_default());
        begin = end;
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    fn rule(model: Option<&str>, targets: &[(&str, u32)]) -> Rule {
        Rule {
            name: "r".into(),
            model: model.map(Into::into),
            targets: targets.iter().map(|&(model, weight)| Target { model: model.into(), weight }).collect(),
        }
    }

    #[test]
    fn an_exact_rule_wins_over_the_default() {
        let rules = [rule(None, &[("any", 1)]), rule(Some("m"), &[("exact", 1)])];
        assert_eq!(Rule::find(&[&rules], "m").unwrap().targets[0].model, "exact");
        assert_eq!(Rule::find(&[&rules], "x").unwrap().targets[0].model, "any");
        assert_eq!(Rule::find(&[&rules[1..]], "x"), None);
        let later = [rule(Some("m"), &[("later", 1)]), rule(Some("n"), &[("other", 1)]), rule(None, &[("last", 1)])];
        for (model, target) in [("m", "exact"), ("n", "other"), ("x", "any")] {
            assert_eq!(Rule::find(&[&rules, &later], model).unwrap().targets[0].model, target);
        }
    }

    #[test]
    fn targets_are_drawn_by_weight() {
        let mut rng = Rng::new(3);
        let mut share = |targets: &[(&str, u32)]| {
            let rule = rule(None, targets);
            (0..10_000).filter(|_| rule.draw(&mut rng).unwrap().model == "a").count()
        };
        assert!((2_800..3_200).contains(&share(&[("a", 30), ("b", 70)])));
        assert!((4_800..5_200).contains(&share(&[("a", 0), ("b", 0)])));
        assert_eq!(share(&[("a", 0), ("b", 1)]), 0);
    }

    #[test]
    fn a_splice_changes_only_the_name() {
        let body = br#"{ "seed": 12345678901234567890, "model" : "old", "z":1,"model":"older" }"#;
        let at = |needle: &[u8]| body.windows(needle.len()).position(|window| window == needle).unwrap();
        let ranges = vec![at(b"\"old\"")..at(b"\"old\"") + 5, at(b"\"older\"")..at(b"\"older\"") + 7];
        let spliced = Splice::rename(ranges, "n\"w", Notation::Json).apply(body);
        assert_eq!(spliced, br#"{ "seed": 12345678901234567890, "model" : "n\"w", "z":1,"model":"n\"w" }"#);
    }

    #[test]
    fn a_plain_name_is_written_as_it_is() {
        let splice = Splice::rename(vec![2..5, 6..11], "n\"é", Notation::Plain);
        let body = b"a\nold\nolder\nb";
        assert_eq!(splice.apply(body), "a\nn\"é\nn\"é\nb".as_bytes());
        assert_eq!(splice.length(body.len() as u64), splice.apply(body).len() as u64);
    }

    #[test]
    fn slices_are_spliced_as_one_body() {
        let body = br#"{"model":"old","n":1,"model":"older"}"#;
        let splice = Splice::rename(vec![9..14, 29..36], "new one", Notation::Json);
        let whole = splice.apply(body);
        assert_eq!(whole, br#"{"model":"new one","n":1,"model":"new one"}"#);
        for first in 0..=body.len() {
            for second in first..=body.len() {
                let slices = [&body[..first], &body[first..second], &body[second..]];
                assert_eq!(splice.apply_to(&slices), whole, "cut at {first} and {second}");
            }
        }
    }

    #[test]
    fn a_range_outside_the_body_changes_nothing() {
        let splice = Splice::rename(vec![2..9, 7..8], "n", Notation::Json);
        assert_eq!(splice.apply(b"abc"), b"abc");
    }

    #[test]
    fn edits_of_several_kinds_keep_apart_and_only_the_beginning_changes() {
        let body = br#"{"model":"old","stream":true}"#;
        let name = 9..14;
        let mut splice = Splice::rename([name].into(), "new", Notation::Json);
        splice.add(&Edit { range: 1..1, text: r#""a":1,"# });
        splice.add(&Edit { range: 24..28, text: "false" });
        let spliced = splice.apply(body);
        assert_eq!(spliced, br#"{"a":1,"model":"new","stream":false}"#);
        assert_eq!((splice.length(body.len() as u64), splice.end()), (spliced.len() as u64, 28));
        let end = splice.end();
        assert_eq!([splice.apply(&body[..end]), body[end..].to_vec()].concat(), spliced);
        assert_eq!((Splice::default().end(), Splice::default().apply(body)), (0, body.to_vec()));
    }
}
