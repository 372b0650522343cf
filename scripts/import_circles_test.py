"""Tests of what counts as an import circle, on small crates."""

import tempfile
import unittest
from pathlib import Path

import import_circles
import rust_source


class Circles(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def circles(self, **files):
        """Files of each circle, by module path: `a__b` is a/b.rs."""
        for name, text in files.items():
            file = self.folder / f"{name.replace('__', '/')}.rs"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        edges = import_circles.graph(rust_source.Crate(self.folder / "lib.rs"))
        return sorted(sorted(file.relative_to(self.folder).as_posix() for file in found)
                      for found in import_circles.components(edges))

    def assert_circle(self, *names, **files):
        self.assertEqual(self.circles(**files), [sorted(f"{name}.rs" for name in names)])

    def assert_none(self, **files):
        self.assertEqual(self.circles(**files), [])

    def test_two_files_that_use_each_other(self):
        self.assert_circle("a", "b", lib="mod a; mod b;", a="use crate::b::B; struct A;", b="use crate::a::A; struct B;")

    def test_three_files_in_a_ring(self):
        self.assert_circle("a", "b", "c", lib="mod a; mod b; mod c;", a="use crate::b::B;", b="use crate::c::C;", c="use super::a::A;")

    def test_arrows_down_are_none(self):
        self.assert_none(lib="mod a; mod b; mod c; use a::A;", a="use crate::{b::B, c::C};", b="use crate::c;", c="")

    def test_path_in_code_counts_as_an_import_does(self):
        self.assert_circle("a", "b", lib="mod a; mod b;", a="fn f() { crate::b::g() }", b="fn g(a: &super::a::A) {}")

    def test_braces_names_and_globs_of_a_use(self):
        self.assert_circle("a", "b", lib="mod a; mod b; mod c;", a="use crate::{c, b::{self as other, B}};", b="use super::{a::*};", c="")

    def test_what_lib_passes_on_counts_for_the_file_that_declares_it(self):
        self.assert_circle("a", "b", lib="mod a; mod b; pub use a::A; pub use b::B as Other;", a="use crate::Other;", b="use crate::A;")

    def test_what_lib_passes_on_with_a_glob(self):
        self.assert_circle("a", "b", lib="mod a; mod b; pub use a::*; pub use b::*;", a="use crate::B; pub struct A;", b="use crate::A; pub struct B;")

    def test_passing_on_alone_is_no_use(self):
        self.assert_none(lib="mod a; pub use a::A; pub struct Own;", a="use crate::Own; pub struct A;")

    def test_passing_on_and_using_is_one(self):
        self.assert_circle("lib", "a", lib="mod a; pub use a::A; pub struct Own(A);", a="use crate::Own; pub struct A;")

    def test_declaring_a_child_alone_is_no_use(self):
        self.assert_none(lib="mod a; pub struct Own;", a="use super::Own;")

    def test_parent_that_uses_a_child_that_uses_it(self):
        self.assert_circle("lib", "a", lib="mod a; pub struct Own; fn f() { a::g() }", a="use super::Own; pub fn g() {}")

    def test_child_that_uses_what_its_parent_only_imports(self):
        self.assert_none(lib="mod a; mod b; use b::B; fn f() { a::g() }", a="use super::B; pub fn g() {}", b="pub struct B;")

    def test_folders(self):
        self.assert_circle("a/mod", "a/c", lib="mod a;", a__mod="mod c; use c::C; pub struct A;", a__c="use super::A; pub struct C;")
        self.assert_circle("b", "b/c", lib="mod b;", b="mod c; use self::c::C; pub struct B;", b__c="use crate::b::B; pub struct C;")

    def test_super_of_super(self):
        self.assert_circle("a/c", "b", lib="mod a; mod b;", a="pub mod c;", a__c="use super::super::b::B;", b="use crate::a::c::C;")

    def test_module_in_braces_is_part_of_its_file(self):
        self.assert_circle("a", "b", lib="mod a; mod b;", a="mod inner { use super::super::b::B; }", b="use crate::a::A;")

    def test_module_with_a_path(self):
        self.assert_circle("a", "elsewhere/x", lib='mod a; #[path = "elsewhere/x.rs"] mod b;', a="use crate::b::B;", elsewhere__x="use crate::a::A;")

    def test_macro_of_the_crate(self):
        self.assert_circle("a", "b", lib="mod a; mod b;", a="macro_rules! m { () => { $crate::b::f() } }", b="use crate::a::A;")

    def test_tests_do_not_count(self):
        for mark in ("#[cfg(test)]", "#[cfg(all(test, unix))]", "#[cfg(test)] #[allow(unused)]"):
            self.assert_none(lib="mod a; mod b;", a="use crate::b::B;", b=mark + " mod tests { use crate::a::A; fn f() { '{'; } }")
        self.assert_none(lib="mod a; mod b;", a="use crate::b::B;", b="#[cfg(test)] mod tests;", b__tests="use crate::a::A;")
        self.assert_none(lib="mod a; mod b;", a="use crate::b::B;", b="#[cfg(test)] use crate::a::{A}; #[cfg(test)] fn f() { crate::a::g() }")

    def test_what_is_not_only_in_tests_counts(self):
        for mark in ("#[cfg(not(test))]", "#[cfg(any(test, unix))]", '#[cfg(feature = "test")]', "#[cfg(test)] use std::fmt;"):
            self.assert_circle("a", "b", lib="mod a; mod b;", a="use crate::b::B;", b=mark + " use crate::a::A;")

    def test_comments_and_strings_do_not_count(self):
        text = '''/// [`A`](crate::a::A)
        // use crate::a::A;
        /* use crate::a::A; /* nested */ use crate::a::A; */
        const S: &str = "use crate::a::A; \\" crate::a::A";
        const R: &str = r#"crate::a::A "quoted" "#;
        fn f<'a>(x: &'a str) -> char { '"' }'''
        self.assert_none(lib="mod a; mod b;", a="use crate::b::B;", b=text)
        self.assert_circle("a", "b", b=text + " use crate::a::A;")

    def test_other_crates_do_not_count(self):
        self.assert_none(lib="mod a; mod b;", a="use std::fmt; use b_crate::b::B; use crate::b::B;", b="use a_crate::a; use ::a::A;")

    def test_names_that_turn_in_a_ring_end(self):
        self.assert_none(lib="mod a; pub use crate::X; pub use a::*;", a="pub use super::*; use crate::Nothing;")

    def test_report_names_files_lines_and_paths(self):
        self.circles(lib="mod a; mod b;", a="\nuse crate::b::B;", b="use crate::a::A;")
        report = list(import_circles.circles(rust_source.Crate(self.folder / "lib.rs"), self.folder))
        self.assertEqual(report, ["  a.rs\n    -> b.rs (line 2: crate::b::B)\n  b.rs\n    -> a.rs (line 1: crate::a::A)"])


if __name__ == "__main__":
    unittest.main()
