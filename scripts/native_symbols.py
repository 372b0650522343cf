#!/usr/bin/env python3
"""Checks what the native module takes from Envoy, what it gives to Envoy, and which C library it needs.

    scripts/native_symbols.py MODULE IMPORTS EXPORTS [ENVOY]    exit code 1 and the breaches if there are any
    scripts/native_symbols.py --write MODULE IMPORTS            writes the list of imports

IMPORTS lists Envoy's functions that the module calls, EXPORTS those of the module that Envoy calls, one a line; a line `- name` in
EXPORTS is a function that Envoy calls where a module has it, and this one has not. Lines with # are comments.

- The module imports exactly what IMPORTS lists, and ENVOY exports it.
- The module exports exactly what EXPORTS lists, and ENVOY names it.
- Nothing that ENVOY looks up in modules of this kind is missing in EXPORTS.
- The module needs no newer C library than Envoy's own images have (GLIBC below).

Names only: a changed argument is found by the tests that run on Envoy.
"""

import mmap
import re
import struct
import sys
from pathlib import Path

HEADER = "# Envoy's functions that the module calls. Written by `scripts/native_symbols.py --write`.\n"
CALLBACK = "envoy_dynamic_module_callback_"
# What Envoy looks up in an HTTP filter's module and in a bootstrap extension's. In Envoy, each name is a string between two zeros.
HOOK = re.compile(rb"envoy_dynamic_module_on_(?:program_init|(?:http_filter|bootstrap_extension)_[a-z0-9_]+)")
LOOKED_UP = re.compile(rb"(?<=\0)" + HOOK.pattern + rb"(?=\0)")
# The oldest C library of an image that Envoy 1.40 is published in: Ubuntu 22.04's.
GLIBC = (2, 35)

# Format: https://refspecs.linuxfoundation.org/elf/elf.pdf and the GNU extensions of symbol versions.
DYNAMIC_SYMBOLS, VERSION_NEEDS = 11, 0x6FFFFFFE
UNDEFINED = 0


class Elf:
    """A 64-bit little-endian ELF file, as far as it is about dynamic symbols."""

    def __init__(self, data):
        self.data = data
        if data[:6] != b"\x7fELF\x02\x01":
            raise ValueError("not a 64-bit little-endian ELF file")
        (offset,) = struct.unpack_from("<Q", data, 0x28)
        size, count = struct.unpack_from("<HH", data, 0x3A)
        self.sections = [struct.unpack_from("<IIQQQQIIQQ", data, offset + index * size) for index in range(count)]

    def text(self, link, offset):
        start = self.sections[link][4] + offset
        return self.data[start : self.data.find(b"\0", start)].decode()

    def symbols(self):
        """(name, whether it is defined here) of each dynamic symbol."""
        for _, kind, _, _, offset, size, link, _, _, entry in self.sections:
            if kind != DYNAMIC_SYMBOLS:
                continue
            for at in range(offset + entry, offset + size, entry):
                name, _, _, section, _, _ = struct.unpack_from("<IBBHQQ", self.data, at)
                yield self.text(link, name), section != UNDEFINED

    def versions(self):
        """The versions of libraries that are needed, such as GLIBC_2.17."""
        for _, kind, _, _, offset, _, link, count, _, _ in self.sections:
            if kind != VERSION_NEEDS:
                continue
            need = offset
            for _ in range(count):
                _, versions, _, first, following = struct.unpack_from("<HHIII", self.data, need)
                version = need + first
                for _ in range(versions):
                    _, _, _, name, behind = struct.unpack_from("<IHHII", self.data, version)
                    yield self.text(link, name)
                    version += behind
                need += following


def imports(elf):
    """Envoy's functions that the file takes."""
    return {name for name, defined in elf.symbols() if name.startswith(CALLBACK) and not defined}


def hooks(elf):
    """Functions for Envoy that the file gives."""
    return {name for name, defined in elf.symbols() if defined and HOOK.fullmatch(name.encode())}


def glibc(elf):
    """The newest version of the C library that is needed."""
    found = (re.fullmatch(r"GLIBC_(\d+)\.(\d+)(?:\.\d+)?", name) for name in elf.versions())
    return max((tuple(map(int, match.groups())) for match in found if match), default=(0, 0))


def listed(text):
    """The names of a list, and those behind a minus."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return {line for line in lines if not line.startswith("-")}, {line[1:].strip() for line in lines if line.startswith("-")}


def breaches(module, calls, gives, left_out):
    """What is wrong with the module alone."""
    taken, given = imports(module), hooks(module)
    yield from (f"the module calls {name}, which is not listed" for name in sorted(taken - calls))
    yield from (f"{name} is listed, and the module does not call it" for name in sorted(calls - taken))
    yield from (f"the module lacks {name}" for name in sorted(gives - given))
    yield from (f"the module has {name}, which is not listed" for name in sorted(given - gives))
    yield from (f"{name} is listed as there and as left out" for name in sorted(gives & left_out))
    if glibc(module) > GLIBC:
        yield "the module needs GLIBC {}.{}, images of Envoy have {}.{}".format(*glibc(module), *GLIBC)


def breaches_with(envoy, looked_up, calls, gives, left_out):
    """What is wrong with the lists for this Envoy. `looked_up`: the names of hooks in it."""
    given = {name for name, defined in envoy.symbols() if defined and name.startswith(CALLBACK)}
    yield from (f"Envoy has no {name}" for name in sorted(calls - given))
    yield from (f"Envoy does not look up {name}" for name in sorted((gives | left_out) - looked_up))
    yield from (f"Envoy looks up {name}, which is not listed" for name in sorted(looked_up - gives - left_out))


def main(arguments):
    write = arguments[:1] == ["--write"]
    arguments = arguments[write:]
    if len(arguments) not in ((2,) if write else (3, 4)):
        print(__doc__, file=sys.stderr)
        return 2
    module = Elf(Path(arguments[0]).read_bytes())
    if write:
        Path(arguments[1]).write_text(HEADER + "".join(f"{name}\n" for name in sorted(imports(module))))
        return 0
    (calls, _), (gives, left_out) = (listed(Path(name).read_text()) for name in arguments[1:3])
    found = list(breaches(module, calls, gives, left_out))
    if len(arguments) == 4:
        with open(arguments[3], "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            looked_up = {match.decode() for match in set(LOOKED_UP.findall(data))}
            found += breaches_with(Elf(data), looked_up, calls, gives, left_out)
    print("\n".join(found), end="\n" if found else "")
    print("{}: {} of Envoy's functions, {} for Envoy, GLIBC {}.{}".format(
        arguments[0], len(imports(module)), len(hooks(module)), *glibc(module)))
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
