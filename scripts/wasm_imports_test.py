"""Tests of the reader of a module's imports."""

import tempfile
import unittest
from pathlib import Path

import wasm_imports


def text(name):
    return bytes([len(name)]) + name.encode()


def module(*entries):
    imports = bytes([len(entries)]) + b"".join(entries)
    # A custom section in front: sections of other kinds are stepped over.
    return wasm_imports.MAGIC + b"\0\3\2ab" + bytes([2, len(imports)]) + imports


FUNCTION = text("env") + text("proxy_log") + b"\0\1"
MEMORY = text("env") + text("memory") + b"\2\1\1\x80\2"
GLOBAL = text("env") + text("base") + b"\3\x7f\0"
CLOCK = text("wasi") + text("clock_time_get") + b"\0\2"


class WasmImports(unittest.TestCase):
    def test_functions_are_found_between_imports_of_other_kinds(self):
        found = wasm_imports.imports(module(CLOCK, MEMORY, GLOBAL, FUNCTION))
        self.assertEqual(found, ["env proxy_log", "wasi clock_time_get"])

    def test_other_file_is_refused(self):
        with self.assertRaises(ValueError):
            wasm_imports.imports(b"\x7fELF....")

    def test_list_that_was_written_agrees_and_a_new_import_does_not(self):
        with tempfile.TemporaryDirectory() as folder:
            file, names = Path(folder) / "m.wasm", Path(folder) / "imports.txt"
            file.write_bytes(module(FUNCTION))
            self.assertEqual(wasm_imports.main(["--write", str(file), str(names)]), 0)
            self.assertEqual(wasm_imports.main([str(file), str(names)]), 0)
            file.write_bytes(module(FUNCTION, CLOCK))
            self.assertEqual(wasm_imports.main([str(file), str(names)]), 1)


if __name__ == "__main__":
    unittest.main()
