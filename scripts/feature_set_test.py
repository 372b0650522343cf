"""Tests of the comparison of features."""

import unittest

import feature_set

WHOLE = """ours v0.1.0 (/home/inpick/ours)|default
serde v1.0.1|derive,std
syn v2.0.1|full
syn v2.0.1|full,visit
thiserror-impl v2.0.1 (proc-macro)|

[dev-dependencies]
serde v1.0.1|derive,std (*)
"""


class Features(unittest.TestCase):
    def test_packages_of_others_are_read_with_all_their_sets(self):
        self.assertEqual(feature_set.parse(WHOLE), {
            "serde v1.0.1": {"derive,std"}, "syn v2.0.1": {"full", "full,visit"}, "thiserror-impl v2.0.1": {""}})

    def test_the_same_features_are_no_difference(self):
        part = feature_set.parse("serde v1.0.1|derive,std\nsyn v2.0.1|full\n")
        self.assertEqual(list(feature_set.differences(feature_set.parse(WHOLE), part)), [])

    def test_other_features_and_other_packages_are_named(self):
        part = feature_set.parse("serde v1.0.1|derive\nnew v1.0.0|std\n")
        self.assertEqual(list(feature_set.differences(feature_set.parse(WHOLE), part)), [
            "new v1.0.0 with [std] instead of [nothing]", "serde v1.0.1 with [derive] instead of [derive,std]"])


if __name__ == "__main__":
    unittest.main()
