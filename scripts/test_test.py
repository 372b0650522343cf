"""Tests of how steps are chosen, and of what is said about those that fail."""

import io
import os
import sys
import tempfile
import threading
import time
import unittest
from contextlib import redirect_stdout
from pathlib import Path
from unittest import mock

import linted_build
import test as steps


class Steps(unittest.TestCase):
    def test_check_stands_for_its_steps(self):
        self.assertEqual({step.name for step in steps.select(["check"])}, set(steps.CHECK))
        self.assertEqual({step.name for step in steps.select(["check", "soak"])}, {*steps.CHECK, "soak"})

    def test_all_steps_begin_with_what_is_quick(self):
        first = [step.name for step in steps.select([])][:4]
        self.assertEqual(first, ["scripts", *steps.CHECK])

    def test_unknown_step_is_refused(self):
        with self.assertRaisesRegex(SystemExit, "no-such-step"):
            steps.select(["no-such-step"])

    def test_some_steps_run_only_when_they_are_named(self):
        for name in steps.BY_NAME:
            self.assertNotIn(name, {step.name for step in steps.select([])})
            self.assertEqual([step.name for step in steps.select([name])], [name])


class Compiler(unittest.TestCase):
    """In CI one build serves lints and tests."""

    SHARED = (["cargo", "test", "--workspace"], ["cargo", "run", "--package", "catalogue"])
    APART = (["cargo", "build", "--profile", "native"], ["cargo", "build", "--release"], ["cargo", "clippy"], ["python", "-m", "pytest"])

    def test_ci_lints_with_the_build_that_tests_share(self):
        with mock.patch.dict(os.environ, CI="true"):
            build = [command for command in steps.lint() if "--all-targets" in command]
            self.assertEqual([command[1].endswith("linted_build.py") for command in build], [True])
            self.assertEqual([steps.compiler(command) for command in self.SHARED], [linted_build.ENVIRONMENT] * 2)
            # What is shipped is compiled as it is shipped.
            self.assertEqual([steps.compiler(command) for command in self.APART], [{}] * 4)

    def test_a_developer_lints_with_clippy_alone(self):
        with mock.patch.dict(os.environ, CI=""):
            build = [command for command in steps.lint() if "--all-targets" in command]
            self.assertEqual([command[:2] for command in build], [["cargo", "clippy"]])
            self.assertEqual([steps.compiler(command) for command in (*self.SHARED, *self.APART)], [{}] * 6)


CARGO = """\
test health::a ... FAILED
test health::b ... ok

failures:

---- health::a stdout ----

thread 'health::a' (7) panicked at tests/health.rs:1:1:
failures:

---- src/lib.rs - Thing (line 3) stdout ----

failures:
    health::a
    src/lib.rs - Thing (line 3)

test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s

failures:
    other::binary

test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s
error: 2 targets failed:
"""
PYTEST = """\
E       FAILED assertion
=========================== short test summary info ============================
FAILED tests/python/test_chat.py::test_tools[stream] - AssertionError: no tool
ERROR tests/python/test_chat.py::test_models - OSError
2 failed, 3 passed in 1.00s
"""
UNITTEST = """\
======================================================================
FAIL: test_one (setup_test.Setup.test_one)
----------------------------------------------------------------------
======================================================================
ERROR: test_two (setup_test.Setup.test_two)
----------------------------------------------------------------------
Ran 9 tests in 0.1s
"""


class Failing(unittest.TestCase):
    def test_cargo_names_each_test_once(self):
        self.assertEqual(steps.failing(CARGO), ["health::a", "src/lib.rs - Thing (line 3)", "other::binary"])

    def test_pytest_names_failures_and_errors(self):
        self.assertEqual(
            steps.failing(PYTEST),
            ["tests/python/test_chat.py::test_tools[stream]", "tests/python/test_chat.py::test_models"],
        )

    def test_what_a_test_said_is_cut_to_one_line(self):
        self.assertEqual(steps.reason(CARGO, "health::a"), "tests/health.rs:1:1: failures:")
        self.assertEqual(steps.reason(CARGO, "other::binary"), "")
        self.assertEqual(steps.reason(PYTEST, "tests/python/test_chat.py::test_models"), "OSError")
        self.assertEqual(len(steps.reason(CARGO.replace("1:1:", "1:1:" + "\nlong" * 200), "health::a")), steps.REASON)

    def test_unittest_names_failures_and_errors(self):
        self.assertEqual(
            steps.failing(UNITTEST), ["test_one (setup_test.Setup.test_one)", "test_two (setup_test.Setup.test_two)"]
        )

    def test_output_without_failed_tests_names_none(self):
        self.assertEqual(steps.failing("error[E0308]: mismatched types\nFAILED\n"), [])

    def test_the_last_lines_name_the_step_and_the_test(self):
        def failing():
            yield [sys.executable, "-c", f"print({CARGO!r}); raise SystemExit(1)"]

        with tempfile.TemporaryDirectory() as logs, mock.patch.multiple(
            steps, STEPS=[steps.Step("odd", failing), steps.Step("empty", list)], LOGS=Path(logs)
        ), redirect_stdout(io.StringIO()) as printed:
            self.assertEqual(steps.main([]), 1)
        self.assertEqual(
            printed.getvalue().splitlines()[-4:],
            [
                "failed: odd: health::a: tests/health.rs:1:1: failures:",
                "failed: odd: src/lib.rs - Thing (line 3)",
                "failed: odd: other::binary",
                "failed: empty: found nothing to check",
            ],
        )

    def test_a_step_that_waits_runs_beside_the_others_when_what_it_needs_is_done(self):
        """`slow` ends only when `beside` has ended, and `beside` succeeds only if `built` has."""
        with tempfile.TemporaryDirectory() as folder:
            built, beside = Path(folder) / "built.txt", Path(folder) / "beside.txt"
            wait = "import pathlib, time\nwhile not pathlib.Path({!r}).exists(): time.sleep(0.01)"
            check = f"import pathlib\npathlib.Path({str(built)!r}).read_text()\npathlib.Path({str(beside)!r}).touch()\nraise SystemExit(1)"

            def step(name, code, **options):
                return steps.Step(name, lambda: [[sys.executable, "-c", code]], minutes=1, **options)

            chosen = [
                step("beside", check, beside=("built",)),
                step("built", f"import pathlib, time\ntime.sleep(0.3)\npathlib.Path({str(built)!r}).touch()"),
                step("slow", wait.format(str(beside))),
            ]
            with mock.patch.multiple(steps, STEPS=chosen, LOGS=Path(folder)), redirect_stdout(io.StringIO()) as printed:
                self.assertEqual(steps.main([]), 1)
            lines = printed.getvalue().splitlines()
            verdicts = {tuple(line.split()[:2]) for line in lines if " s  " in line}
            self.assertEqual(verdicts, {("ok", "built"), ("FAILED", "beside"), ("ok", "slow")})
            self.assertEqual(lines[-2:], ["2 passed, 1 failed, 0 skipped", "failed: beside: exit code 1"])
            # Chosen without what it needs, it waits for nothing.
            with mock.patch.multiple(steps, STEPS=chosen, LOGS=Path(folder)), redirect_stdout(io.StringIO()):
                self.assertEqual(steps.main(["beside"]), 1)

    def test_a_spare_step_runs_beside_all_others_and_yields_the_processors_to_them(self):
        """`first` ends when both others have begun."""
        with tempfile.TemporaryDirectory() as folder:
            wait = "import pathlib, time\nwhile len(list(pathlib.Path({!r}).glob('*.began'))) < 3: time.sleep(0.01)"
            begin = "import os, pathlib\npathlib.Path({!r}, '{}.began').write_text(str(os.nice(0)))\n"

            def step(name, **options):
                return steps.Step(name, lambda: [[sys.executable, "-c", begin.format(folder, name) + wait.format(folder)]], minutes=1, **options)

            chosen = [step("waiting", beside=()), step("spare", beside=(), spare=True), step("first")]
            with mock.patch.multiple(steps, STEPS=chosen, LOGS=Path(folder)), redirect_stdout(io.StringIO()):
                self.assertEqual(steps.main([]), 0)
            nice = {step.name: int(Path(folder, f"{step.name}.began").read_text()) for step in chosen}
            self.assertEqual(nice, {"waiting": os.nice(0), "spare": 19, "first": os.nice(0)})

    def test_the_tools_of_later_steps_are_installed_from_the_start_on(self):
        installed = threading.Event()

        def first():
            self.assertTrue(installed.wait(30))
            yield [sys.executable, "-c", ""]

        chosen = [
            steps.Step("first", first), steps.Step("never", lambda: [["no-such-program"]], ("absent",), beside=(), spare=True),
            steps.Step("later", lambda: [[sys.executable, "-c", ""]], ("compiler",)),
        ]

        def ensure(*tools):
            if "compiler" in tools:
                installed.set()
            if "absent" in tools:
                raise steps.setup.Missing("it is not here")

        with tempfile.TemporaryDirectory() as logs, mock.patch.multiple(steps, STEPS=chosen, LOGS=Path(logs)), mock.patch.object(
            steps.setup, "ensure", ensure
        ), redirect_stdout(io.StringIO()) as printed:
            self.assertEqual(steps.main([]), 1)
        self.assertEqual(printed.getvalue().splitlines()[-1], "failed: never: it is not here")
        self.assertIn("2 passed, 1 failed", printed.getvalue())

    def test_a_step_that_failed_beside_another_is_run_by_itself_and_named(self):
        with tempfile.TemporaryDirectory() as folder:
            ran = Path(folder) / "ran.txt"
            once = f"import pathlib\nran = pathlib.Path({str(ran)!r})\nis_second = ran.exists()\nran.touch()\nraise SystemExit(not is_second)"

            def python(code):
                return lambda: [[sys.executable, "-c", code]]

            chosen = [
                steps.Step("beside", python(once), beside=()), steps.Step("never", python("raise SystemExit(3)"), beside=()),
                steps.Step("other", python("")),
            ]
            with mock.patch.multiple(steps, STEPS=chosen, LOGS=Path(folder)), redirect_stdout(io.StringIO()) as printed:
                self.assertEqual(steps.main([]), 1)
            last = ["2 passed, 1 failed, 0 skipped", "failed once, passed alone: beside: exit code 1", "failed: never: exit code 3"]
            self.assertEqual(printed.getvalue().splitlines()[-3:], last)

    def test_an_interrupted_run_ends_what_runs_and_starts_nothing_more(self):
        class Interrupted(Exception):
            pass

        with tempfile.TemporaryDirectory() as folder:
            started, later = Path(folder) / "started.txt", Path(folder) / "later.txt"

            def interrupt():
                while not started.exists():
                    time.sleep(0.01)
                raise Interrupted

            def python(code):
                return lambda: [[sys.executable, "-c", code]]

            touch = "import pathlib, time\npathlib.Path({!r}).touch()\ntime.sleep({})"
            chosen = [
                steps.Step("long", python(touch.format(str(started), 50)), beside=()),
                steps.Step("later", python(touch.format(str(later), 0)), beside=()),
                steps.Step("interrupted", interrupt),
            ]
            start = time.monotonic()
            with mock.patch.multiple(steps, STEPS=chosen, LOGS=Path(folder), STOPPED=threading.Event()), redirect_stdout(io.StringIO()):
                with self.assertRaises(Interrupted):
                    steps.main([])
            self.assertLess(time.monotonic() - start, 40)
            self.assertFalse(later.exists())
            self.assertEqual(steps.RUNNING, set())

    def test_a_test_that_fails_among_others_is_run_by_itself_and_named(self):
        def failing():
            yield [sys.executable, "-c", f"print({CARGO!r}); raise SystemExit(1)"]

        def outcome(code):
            asked = []

            def again(names):
                asked.extend(names)
                return [sys.executable, "-c", f"raise SystemExit({code})"]

            with tempfile.TemporaryDirectory() as logs, mock.patch.multiple(
                steps, STEPS=[steps.Step("odd", failing, again=again)], LOGS=Path(logs)
            ), redirect_stdout(io.StringIO()) as printed:
                return steps.main([]), asked, printed.getvalue().splitlines()[-3:]

        names = ["health::a", "src/lib.rs - Thing (line 3)", "other::binary"]
        code, asked, last = outcome(0)
        self.assertEqual((code, asked), (0, names))
        self.assertEqual(last[0], "failed once, passed alone: odd: health::a: tests/health.rs:1:1: failures:")
        self.assertEqual(outcome(1)[0], 1)
        with mock.patch.object(steps, "MAX_AGAIN", 2):
            code, asked, _ = outcome(0)
        self.assertEqual((code, asked), (1, []))


if __name__ == "__main__":
    unittest.main()
