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
        for name in ("FUZZ", "CORPUS", "SCRATCH", "LOGS"):
            (self.folder / name).mkdir()
            patch = mock.patch.object(fuzz, name, self.folder / name)
            patch.start()
            self.addCleanup(patch.stop)
        build = mock.patch.dict(fuzz.os.environ, CARGO_TARGET_DIR=str(self.folder / "build"))
        build.start()
        self.addCleanup(build.stop)

    def run_binary(self, script, live=False):
        """Runs a stand-in for a target; returns whether nothing failed, and what was printed."""
        binary = self.folder / "binary"
        binary.write_text(f"#!/bin/sh\n{script}")
        binary.chmod(0o755)
        shown = io.StringIO()
        with redirect_stdout(shown):
            return fuzz.run("target", binary, 1, fuzz.SEED, self.folder / "found", live), shown.getvalue()

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

    def test_what_a_long_backtrace_follows_is_shown(self):
        _, shown = self.run_binary("echo '#9 NEW'; echo thread panicked at pool.rs:1:2:; echo too many; seq 1 1000; exit 77")
        self.assertIn("panicked at pool.rs:1:2:\ntoo many\n1\n", shown)
        self.assertNotIn("#9 NEW", shown)
        self.assertNotIn("1000", shown)

    def test_runs_of_all_targets_have_the_same_seed(self):
        _, shown = self.run_binary('for given in "$@"; do case $given in -seed=*) echo "$given";; esac; done', live=True)
        self.assertIn(f"-seed={fuzz.SEED}\n", shown)

    def test_run_starts_from_the_committed_inputs(self):
        fuzz.fuzz_corpus.write(fuzz.fuzz_corpus.archive(fuzz.CORPUS, "target"), {"a name": b"seed"})
        ok, _ = self.run_binary('cat "$1/a name" > ' + str(self.folder / "seen"))
        self.assertTrue(ok)
        self.assertEqual((self.folder / "seen").read_text(), "seed")

    def minimise(self, script):
        """Runs a stand-in for libFuzzer's merge over a named and a found input; returns what is committed then."""
        file = fuzz.fuzz_corpus.archive(fuzz.CORPUS, "target")
        fuzz.fuzz_corpus.write(file, {"named": b"n", "a" * 40: b"a", "b" * 40: b"b"})
        binary = self.folder / "binary"
        binary.write_text(f'#!/bin/sh\nfor kept in "$@"; do test -d "$kept" && break; done\n{script}')
        binary.chmod(0o755)
        with redirect_stdout(io.StringIO()):
            fuzz.minimise("target", binary)
        return fuzz.fuzz_corpus.read(file)

    def test_minimising_keeps_named_inputs_and_those_that_reach_more(self):
        kept = self.minimise(f'test -e "$kept/named" && cp "{self.folder}/build/fuzz/target/{"b" * 40}" "$kept"')
        self.assertEqual(kept, {"named": b"n", "b" * 40: b"b"})

    def test_minimising_that_fails_changes_nothing(self):
        with self.assertRaises(SystemExit):
            self.minimise("exit 1")
        self.assertEqual(len(fuzz.fuzz_corpus.read(fuzz.fuzz_corpus.archive(fuzz.CORPUS, "target"))), 3)

    def test_packing_needs_no_compiler(self):
        loose = fuzz.CORPUS / "target"
        loose.mkdir()
        (loose / "new").write_bytes(b"x")
        (self.folder / "FUZZ" / "targets").mkdir()
        (self.folder / "FUZZ" / "targets" / "target.rs").touch()
        with redirect_stdout(io.StringIO()) as shown:
            self.assertEqual(fuzz.main(["--pack"]), 0)
        self.assertRegex(shown.getvalue(), r"^target +1 inputs\n$")

    def test_unknown_target_is_an_error_of_usage(self):
        with redirect_stderr(io.StringIO()), self.assertRaises(SystemExit) as raised:
            fuzz.main(["no-such-target"])
        self.assertEqual(raised.exception.code, 2)


if __name__ == "__main__":
    unittest.main()
