#!/usr/bin/env python3
"""Compares the imports of a wasm module with a list, so that a new host call is a decision.

    scripts/wasm_imports.py MODULE LIST          exit code 1 and the differences if they differ
    scripts/wasm_imports.py --write MODULE LIST  writes the list

The list has a line `module name` for each imported function, sorted; lines with # are comments.
"""

import sys
from pathlib import Path

# Format: https://webassembly.github.io/spec/core/binary/modules.html
MAGIC = b"\0asm\1\0\0\0"
IMPORT_SECTION = 2
FUNCTION, TABLE, MEMORY, GLOBAL, TAG = range(5)
HEADER = "# Every function that the module imports. Written by `scripts/wasm_imports.py --write`.\n"


class Reader:
    def __init__(self, data, position=0):
        self.data, self.position = data, position

    def byte(self):
        self.position += 1
        return self.data[self.position - 1]

    def number(self):
        """Unsigned LEB128."""
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    def name(self):
        length = self.number()
        self.position += length
        return self.data[self.position - length : self.position].decode()

    def limits(self):
        flags = self.number()
        self.number()
        if flags & 1:
            self.number()


def imports(module):
    """Imported functions as `module name`, sorted."""
    if module[: len(MAGIC)] != MAGIC:
        raise ValueError("not a wasm module")
    reader = Reader(module, len(MAGIC))
    found = []
    while reader.position < len(module):
        section, length = reader.byte(), reader.number()
        end = reader.position + length
        if section == IMPORT_SECTION:
            for _ in range(reader.number()):
                entry = f"{reader.name()} {reader.name()}"
                kind = reader.byte()
                if kind == FUNCTION:
                    reader.number()
                    found.append(entry)
                elif kind == TABLE:
                    reader.byte()
                    reader.limits()
                elif kind == MEMORY:
                    reader.limits()
                elif kind == GLOBAL:
                    reader.byte()
                    reader.byte()
                elif kind == TAG:
                    reader.byte()
                    reader.number()
                else:
                    raise ValueError(f"import of unknown kind {kind}")
        reader.position = end
    return sorted(found)


def listed(text):
    return sorted(line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#"))


def main(arguments):
    write = arguments[:1] == ["--write"]
    if len(arguments) - write != 2:
        print(__doc__, file=sys.stderr)
        return 2
    module, file = Path(arguments[-2]), Path(arguments[-1])
    actual = imports(module.read_bytes())
    if write:
        file.write_text(HEADER + "".join(f"{entry}\n" for entry in actual))
        return 0
    expected = listed(file.read_text())
    for entry in sorted(set(actual) - set(expected)):
        print(f"{module} imports {entry}, which {file} does not list")
    for entry in sorted(set(expected) - set(actual)):
        print(f"{file} lists {entry}, which {module} does not import")
    return int(actual != expected)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
