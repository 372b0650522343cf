"""Tests of the build that lints, on a package without dependencies."""

import io
import json
import os
import subprocess
import tempfile
import unittest
from contextlib import redirect_stderr
from pathlib import Path
from unittest import mock

import linted_build
import setup

MANIFEST = """\
[package]
name = "odd"
edition = "2024"
[lints.rust]
unsafe_code = "forbid"
[lints.clippy]
unwrap_used = "deny"
[workspace]
"""
# One warns unless told otherwise, one is denied by the manifest, and one is forbidden.
WARNED = "pub fn length(text: &str) -> bool { text.len() == 0 }"
DENIED = "pub fn first(text: &str) -> char { text.chars().next().unwrap() }"
FORBIDDEN = "pub fn read(at: *const u8) -> u8 { unsafe { *at } }"
CLEAN = "pub fn one() -> u32 { 1 }"


def message(reason, text):
    return json.dumps({"reason": reason, "message": {"rendered": text}}) + "\n"


class LintedBuild(unittest.TestCase):
    def test_what_the_compiler_said_is_told_once(self):
        lines = ["not json\n", message("compiler-message", "a"), message("compiler-artifact", "b"), message("compiler-message", "a")]
        with redirect_stderr(io.StringIO()) as shown:
            self.assertEqual(linted_build.warnings(lines), ["a"])
        self.assertEqual(shown.getvalue().strip(), "a")

    @unittest.skipIf(setup.query("clippy-driver", "--version") is None, "there is no clippy")
    def test_a_lint_fails_the_build_that_lints_and_no_other(self):
        with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, CARGO_TARGET_DIR=f"{folder}/target"):
            Path(folder, "Cargo.toml").write_text(MANIFEST)
            Path(folder, "src").mkdir()
            for code, failing in ((WARNED, 1), (DENIED, 1), (FORBIDDEN, 1), (CLEAN, 0), ("pub fn", 101)):
                Path(folder, "src", "lib.rs").write_text(code)
                # The second build compiles nothing, and must say the same.
                for _ in range(2):
                    with redirect_stderr(io.StringIO()) as shown:
                        self.assertEqual(linted_build.build(["build", "--quiet"], folder), failing, code)
                    self.assertEqual("src/lib.rs" in shown.getvalue(), failing > 0, code)
                plain = subprocess.run(["cargo", "build"], cwd=folder, env=os.environ | linted_build.ENVIRONMENT, capture_output=True, text=True)
                self.assertEqual(plain.returncode, 101 if failing == 101 else 0, plain.stderr)
                if failing != 101:
                    self.assertNotIn("Compiling", plain.stderr)


if __name__ == "__main__":
    unittest.main()
