"""Tests of the fuzzing script that fuzz nothing."""

import io
import tempfile
import unittest
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest import mock

import fuzz

# What libFuzzer prints, as far as it is read.
OUTPUT = """#7\tINITED cov: 90 ft: 91 corp: 3/9b exec/s: 0 rss: 29Mb
#4096\tDONE   cov: 120 ft: 345 corp: 9/99b lim: 4096 exec/s: 512 rss: 31Mb
stat::number_of_executed_units: 4096
stat::average_exec_per_sec:     512
"""


class Fuzz(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        for name in ("FUZZ", "SCRATCH", "LOGS"):
            (self.folder / name).mkdir()
            patch = mock.patch.object(fuzz, name, self.folder / name)
            patch.start()
            self.addCleanup(patch.stop)

    def run_binary(self, script, live=False):
        """Runs a stand-in for a target; returns whether nothing failed, and what was printed."""
        binary = self.folder / "binary"
        binary.write_text(f"#!/bin/sh\n{script}")
        binary.chmod(0o755)
        shown = io.StringIO()
        with redirect_stdout(shown):
            return fuzz.run("target", binary, 1, self.folder / "found", live), shown.getvalue()

    def test_figures_are_those_of_the_end(self):
        self.assertEqual(fuzz.figures(OUTPUT), (4096, 512, 120, 345))
        self.assertEqual(fuzz.figures(""), (0, 0, 0, 0))

    def test_run_without_a_failure_says_so_in_one_line(self):
        ok, shown = self.run_binary(f"cat <<'END'\n{OUTPUT}END\n")
        self.assertTrue(ok)
        self.assertRegex(shown, r"^target +4096 runs +512/s +120 edges +345 features +ok\n$")

    def test_failing_input_is_kept_and_named(self):
        for live in (False, True):
            artifacts = self.folder / "SCRATCH" / "target"
            ok, shown = self.run_binary(f"echo it panicked; printf bad > {artifacts}/crash-1; exit 77", live)
            self.assertFalse(ok)
            kept = self.folder / "FUZZ" / "past_failures" / "target" / "crash-1"
            self.assertEqual(kept.read_text(), "bad")
            for part in ("FAILED", "it panicked", str(kept), "cargo test -p fuzz --test replay target"):
                self.assertIn(part, shown)

    def test_unknown_target_is_an_error_of_usage(self):
        with redirect_stderr(io.StringIO()), self.assertRaises(SystemExit) as raised:
            fuzz.main(["no-such-target"])
        self.assertEqual(raised.exception.code, 2)


if __name__ == "__main__":
    unittest.main()
