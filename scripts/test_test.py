"""Tests of how steps are chosen."""

import unittest

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


if __name__ == "__main__":
    unittest.main()
