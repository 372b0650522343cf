"""Tests of what counts as a public type, and of names that packages share."""

import tempfile
import unittest
from pathlib import Path

import rust_source
import type_names


class Names(unittest.TestCase):
    def public(self, text):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "lib.rs"
            file.write_text(text)
            return type_names.public(rust_source.Crate(file))

    def test_every_kind_of_public_type_counts(self):
        text = "pub struct A<T>(T); pub enum B {} pub trait C {} pub union D { a: u8 } pub type E = u8; mod m { pub struct F; }"
        self.assertEqual(self.public(text), {"A", "B", "C", "D", "E", "F"})

    def test_other_types_do_not(self):
        text = """struct A; pub(crate) struct B; impl T for A { type C = u8; } // pub struct D;
        #[cfg(test)] mod tests { pub struct E; }
        const F: &str = "pub struct F;"; pub fn g() {} pub use x::H;"""
        self.assertEqual(self.public(text), set())

    def test_attributes_and_comments_in_between_do_not_hide_one(self):
        self.assertEqual(self.public("/// Text.\n#[derive(Debug)]\npub /* still */ struct A;"), {"A"})

    def test_only_names_of_several_packages_are_shared(self):
        types = [("one", "A"), ("one", "A"), ("one", "B"), ("two", "B"), ("two", "C")]
        self.assertEqual(type_names.shared(types), {"B": {"one", "two"}})


if __name__ == "__main__":
    unittest.main()
