import struct
import unittest

from native_symbols import CALLBACK, Elf, breaches, breaches_with, glibc, hooks, imports, listed

HOOK = "envoy_dynamic_module_on_http_filter_"


def elf(symbols, versions=()):
    """A file with these (name, is defined) and these needed versions."""
    texts, offsets = b"\0", {}
    for name in [name for name, _ in symbols] + list(versions):
        offsets[name] = len(texts)
        texts += name.encode() + b"\0"
    table = b"\0" * 24
    for name, defined in symbols:
        table += struct.pack("<IBBHQQ", offsets[name], 0x12, 0, 7 if defined else 0, 0, 0)
    needs = b""
    for index, name in enumerate(versions):
        # One library a version: a header of 16 bytes and one entry behind it.
        needs += struct.pack("<HHIII", 1, 1, 0, 16, 32 if index + 1 < len(versions) else 0)
        needs += struct.pack("<IHHII", 0, 0, 2, offsets[name], 0)
    start = 64
    at = [start, start + len(texts), start + len(texts) + len(table)]
    sections = [
        (0,) * 10,
        (0, 3, 0, 0, at[0], len(texts), 0, 0, 1, 0),
        (0, 11, 0, 0, at[1], len(table), 1, 0, 8, 24),
        (0, 0x6FFFFFFE, 0, 0, at[2], len(needs), 1, len(versions), 4, 0),
    ]
    body = texts + table + needs
    header = b"\x7fELF\x02\x01".ljust(0x28, b"\0") + struct.pack("<Q", start + len(body))
    header = header.ljust(0x3A, b"\0") + struct.pack("<HH", 64, len(sections))
    return Elf(header.ljust(start, b"\0") + body + b"".join(struct.pack("<IIQQQQIIQQ", *section) for section in sections))


class NativeSymbols(unittest.TestCase):
    def test_symbols_are_told_apart_by_their_place(self):
        module = elf([(CALLBACK + "log_v2", False), (HOOK + "new", True), ("malloc", False), ("helper", True)])
        self.assertEqual(imports(module), {CALLBACK + "log_v2"})
        self.assertEqual(hooks(module), {HOOK + "new"})

    def test_the_newest_version_of_the_c_library_counts_by_number(self):
        self.assertEqual(glibc(elf([], ["GLIBC_2.9", "GLIBC_2.34", "GLIBC_2.2.5", "GCC_3.0"])), (2, 34))
        self.assertEqual(glibc(elf([])), (0, 0))

    def test_a_module_that_keeps_to_its_lists_breaks_nothing(self):
        module = elf([(CALLBACK + "log_v2", False), (HOOK + "new", True)], ["GLIBC_2.34"])
        self.assertEqual(list(breaches(module, {CALLBACK + "log_v2"}, {HOOK + "new"}, {HOOK + "other"})), [])

    def test_each_difference_is_named(self):
        module = elf([(CALLBACK + "new_one", False), (HOOK + "extra", True)], ["GLIBC_2.99"])
        found = "\n".join(breaches(module, {CALLBACK + "old_one"}, {HOOK + "new"}, {HOOK + "new"}))
        for part in ("calls " + CALLBACK + "new_one", CALLBACK + "old_one is listed", "lacks " + HOOK + "new",
                     "has " + HOOK + "extra", "and as left out", "GLIBC 2.99"):
            self.assertIn(part, found)

    def test_envoy_must_have_what_is_called_and_look_up_what_is_given(self):
        envoy = elf([(CALLBACK + "log_v2", True), (CALLBACK + "not_defined", False)])
        calls, gives = {CALLBACK + "log_v2", CALLBACK + "not_defined"}, {HOOK + "new", HOOK + "renamed"}
        found = list(breaches_with(envoy, {HOOK + "new", HOOK + "newest"}, calls, gives, set()))
        self.assertEqual(len(found), 3)
        self.assertIn("Envoy has no " + CALLBACK + "not_defined", found)
        self.assertIn("Envoy does not look up " + HOOK + "renamed", found)
        self.assertIn("Envoy looks up " + HOOK + "newest, which is not listed", found)

    def test_a_list_has_comments_and_what_is_left_out(self):
        self.assertEqual(listed("# words\na\n- b\n\n"), ({"a"}, {"b"}))

    def test_something_else_is_no_elf_file(self):
        with self.assertRaises(ValueError):
            Elf(b"\0asm\1\0\0\0")


if __name__ == "__main__":
    unittest.main()
