"""Tests of the archives of fuzz inputs."""

import tempfile
import unittest
from pathlib import Path

import fuzz_corpus

INPUTS = {"b": b"\x00\xff\r\n", "a": b"", "0" * 40: b"x" * 5000}


class Corpus(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.corpus = Path(folder.name) / "corpus"
        self.file = fuzz_corpus.archive(self.corpus, "target")

    def test_what_is_packed_is_unpacked(self):
        fuzz_corpus.write(self.file, INPUTS)
        self.assertEqual(fuzz_corpus.read(self.file), INPUTS)
        folder = self.corpus.parent / "unpacked" / "target"
        for _ in range(2):
            self.assertEqual(fuzz_corpus.unpack(self.corpus, "target", folder), 3)
            self.assertEqual(fuzz_corpus.read_folder(folder), INPUTS)
            (folder / "left over").write_text("of an earlier run")

    def test_same_inputs_give_the_same_archive(self):
        fuzz_corpus.write(self.file, INPUTS)
        other = fuzz_corpus.archive(self.corpus, "other")
        fuzz_corpus.write(other, dict(sorted(INPUTS.items(), reverse=True)))
        self.assertEqual(self.file.read_bytes(), other.read_bytes())

    def test_archive_that_holds_the_inputs_is_left_alone(self):
        fuzz_corpus.write(self.file, INPUTS)
        # As another version of zlib would have written it.
        self.file.write_bytes(fuzz_corpus.gzip.compress(fuzz_corpus.gzip.decompress(self.file.read_bytes()), 1, mtime=0))
        before = self.file.read_bytes()
        fuzz_corpus.write(self.file, INPUTS)
        self.assertEqual(self.file.read_bytes(), before)

    def test_packing_takes_in_what_lies_loose(self):
        fuzz_corpus.write(self.file, INPUTS)
        loose = self.corpus / "target"
        loose.mkdir()
        (loose / "c").write_bytes(b"new")
        (loose / "b").write_bytes(b"changed")
        self.assertEqual(fuzz_corpus.unpack(self.corpus, "target", self.corpus.parent / "unpacked"), 4)
        self.assertEqual(fuzz_corpus.pack(self.corpus, "target"), 4)
        self.assertEqual(fuzz_corpus.read(self.file), {**INPUTS, "b": b"changed", "c": b"new"})
        self.assertFalse(loose.exists())

    def test_target_without_inputs(self):
        self.assertEqual(fuzz_corpus.unpack(self.corpus, "target", self.corpus.parent / "unpacked"), 0)


if __name__ == "__main__":
    unittest.main()
