"""Reads Rust sources as far as rules about structure need: tokens, modules, paths and the types that are public.

Text only: nothing is expanded, and what stands under `#[cfg(test)]` is left out, since tests may use whatever they like.
"""

import json
import re
import subprocess
from pathlib import Path

TOKEN = re.compile(
    r"""
    (?P<space>\s+|//[^\n]*)
  | (?P<comment>/\*)
  | (?P<raw>(?:b|c)?r(?P<hashes>\#*)"(?s:.*?)"(?P=hashes))
  | (?P<string>(?:b|c)?"(?s:\\.|[^"\\])*")
  | (?P<char>b?'(?:\\(?:u\{[^}]*\}|x[0-9a-fA-F]{2}|.)|[^'\\\n])')
  | (?P<lifetime>'[A-Za-z_]\w*)
  | (?P<word>(?:r\#)?[A-Za-z_]\w*)
  | (?P<number>\d[\w.]*?(?=\.\.|[^\w.]|$))
  | (?P<path>::)
  | (?P<other>.)
    """,
    re.VERBOSE,
)
OPEN, CLOSE = {"(": ")", "[": "]", "{": "}"}, {")", "]", "}"}
TYPES = {"struct", "enum", "trait", "union", "type"}


class Token(str):
    """A token's text with the line it starts on."""

    __slots__ = ("line",)

    def __new__(cls, text, line):
        token = super().__new__(cls, text)
        token.line = line
        return token


def tokens(text):
    """Tokens without comments. A string is one token."""
    found, at, line = [], 0, 1
    while at < len(text):
        match = TOKEN.match(text, at)
        kind, end = match.lastgroup, match.end()
        if kind == "comment":
            end = _comment_end(text, at)
        elif kind != "space":
            found.append(Token(match.group().removeprefix("r#"), line))
        line += text.count("\n", at, end)
        at = end
    return found


def _comment_end(text, at):
    depth = 0
    for match in re.compile(r"/\*|\*/").finditer(text, at):
        depth += 1 if match.group() == "/*" else -1
        if depth == 0:
            return match.end()
    return len(text)


def _closing(found, at):
    """Index behind the bracket that closes the one at `at`."""
    depth = 0
    for index in range(at, len(found)):
        depth += found[index] in OPEN
        depth -= found[index] in CLOSE
        if depth == 0:
            return index + 1
    return len(found)


def _item_end(found, at):
    """Index behind the item that starts at `at`: its `;` or the block that ends it."""
    while at < len(found):
        if found[at] == ";":
            return at + 1
        if found[at] in OPEN:
            block = found[at] == "{"
            at = _closing(found, at)
            if block and not (at < len(found) and found[at] in (";", ",", ".", "?")):
                return at
        elif found[at] in CLOSE:
            return at
        else:
            at += 1
    return at


def _only_in_tests(attribute):
    """Whether an attribute's tokens are `cfg(test)` or `cfg(all(…, test, …))`."""
    if attribute[:2] != ["cfg", "("]:
        return False
    condition = attribute[2:-1]
    if condition[:2] == ["all", "("]:
        return ["test"] in list(_parts(condition[2:-1]))
    return condition == ["test"]


def without_tests(found):
    """The tokens without items that only tests have, and without attributes but `#[path]`."""
    kept, at = [], 0
    while at < len(found):
        if found[at] == "#" and found[at + 1:at + 2] in (["["], ["!"]):
            inner = found[at + 1] == "!"
            start = at + 2 if inner else at + 1
            end = _closing(found, start)
            attribute = found[start + 1:end - 1]
            if not inner and _only_in_tests(attribute):
                while found[end:end + 2] == ["#", "["]:
                    end = _closing(found, end + 1)
                at = _item_end(found, end)
                continue
            if attribute[:2] == ["path", "="]:
                kept += found[at:end]
            at = end
            continue
        kept.append(found[at])
        at += 1
    return kept


class Use:
    """A path that code names: the module where it stands, its segments, the name it binds ('' for a path in code), its line."""

    def __init__(self, module, segments, name, line, public=False):
        self.module, self.segments, self.name, self.line, self.public = module, segments, name, line, public


class Module:
    """A module of a crate: its path from the root, its file, its children by name, and what its `use` items bind."""

    def __init__(self, path, file):
        self.path, self.file = path, file
        self.children, self.bound, self.globs, self.types, self.words = {}, {}, [], [], {}


class Crate:
    """The modules of one target (library, program, test, bench or example), found from its root file."""

    def __init__(self, root):
        self.root = Path(root)
        self.uses = []
        self.top = self._file(self.root, (), self.root.parent)

    def _file(self, file, path, folder):
        module = Module(path, file)
        self._walk(module, without_tests(tokens(file.read_text())), folder)
        return module

    def _walk(self, module, found, folder):
        """Reads a module's tokens; its children lie in `folder`."""
        at, given = 0, None
        while at < len(found):
            token = found[at]
            if token == "#" and found[at + 1:at + 4] == ["[", "path", "="]:
                given = found[at + 4].strip('"')
                at = _closing(found, at + 1)
            elif token == "mod" and found[at + 2:at + 3] == [";"]:
                self._child(module, found[at + 1], folder, given)
                given, at = None, at + 3
            elif token == "mod" and found[at + 2:at + 3] == ["{"]:
                end = _closing(found, at + 2)
                child = module.children[str(found[at + 1])] = Module((*module.path, str(found[at + 1])), module.file)
                self._walk(child, found[at + 3:end - 1], folder / found[at + 1])
                at = end
            elif token == "use" and found[at - 1:at] != ["#"]:
                end = found.index(";", at) if ";" in found[at:] else len(found)
                self._use(module, found[at + 1:end], self._public(found, at))
                at = end + 1
            elif token in TYPES and at > 0 and found[at - 1] == "pub":
                module.types.append(found[at + 1])
                at += 1
            elif re.match(r"[A-Za-z_]", token):
                at = self._code(module, found, at)
            else:
                at += 1

    @staticmethod
    def _public(found, at):
        return found[at - 1:at] == ["pub"] or (found[at - 1:at] == [")"] and "pub" in found[max(at - 6, 0):at])

    def _child(self, module, name, folder, given):
        name = str(name)
        if given is not None:
            # Relative to the folder of the file that declares it, as for a module that is not inside another's braces.
            file = (module.file.parent / given).resolve()
            below = file.parent
        else:
            file, below = folder / f"{name}.rs", folder / name
            if not file.exists():
                file = folder / name / "mod.rs"
        if file.exists():
            module.children[name] = self._file(file, (*module.path, name), below)

    def _code(self, module, found, at):
        """A word or path in code."""
        segments, line = [str(found[at])], found[at].line
        while found[at + 1:at + 2] == ["::"] and re.match(r"[A-Za-z_]", "".join(found[at + 2:at + 3])):
            segments.append(str(found[at + 2]))
            at += 2
        module.words.setdefault(segments[0], line)
        if len(segments) > 1:
            self.uses.append(Use(module, segments, "", line))
        return at + 1

    def _use(self, module, tree, public, prefix=()):
        """Takes a use tree apart."""
        at, segments = 0, list(prefix)
        while at < len(tree):
            token = tree[at]
            if token == "{":
                for part in _parts(tree[at + 1:_closing(tree, at) - 1]):
                    self._use(module, part, public, tuple(segments))
                return
            if token == "*":
                use = Use(module, segments, "*", token.line, public)
                module.globs.append(use)
                self.uses.append(use)
                return
            if token == "as":
                return self._bind(module, segments, str(tree[at + 1]), token.line, public)
            if token != "::":
                segments.append(str(token))
            at += 1
        if len(segments) > len(prefix):
            if segments[-1] == "self":
                segments.pop()
            self._bind(module, segments, segments[-1] if segments else "", tree[0].line, public)

    def _bind(self, module, segments, name, line, public):
        use = Use(module, segments, name, line, public)
        module.bound[name] = use
        self.uses.append(use)

    def modules(self):
        waiting = [self.top]
        while waiting:
            module = waiting.pop()
            yield module
            waiting += module.children.values()

    def _at(self, path):
        module = self.top
        for name in path:
            module = module.children[name]
        return module

    def resolve(self, module, segments, seen=frozenset()):
        """The module that declares what a path names, as far as this crate does; None if it is outside."""
        if not segments:
            return module
        head, rest = segments[0], list(segments[1:])
        if head in ("crate", "$crate"):
            return self._within(self.top, rest, seen)
        if head == "self":
            return self._within(module, rest, seen)
        if head == "super":
            above = self._at(module.path[:-1])
            return self.resolve(above, rest, seen) if rest[:1] == ["super"] else self._within(above, rest, seen)
        if head in module.children or (head in module.bound and module.bound[head].segments[:1] != [head]):
            return self._within(module, list(segments), seen)
        return None

    def _within(self, module, segments, seen):
        if not segments:
            return module
        head, rest = segments[0], segments[1:]
        if head in module.children:
            return self._within(module.children[head], rest, seen)
        key = (module.path, head)
        if head in module.bound and key not in seen:
            use = module.bound[head]
            # A name of another crate that this module passes on: this module is what is used.
            return self.resolve(module, [*use.segments, *rest], seen | {key}) or module
        for use in module.globs:
            mark = (module.path, head, "*", *use.segments)
            if mark not in seen:
                found = self.resolve(module, use.segments, seen | {mark})
                if found is not None and (head in found.words or head in found.bound or head in found.children):
                    return self._within(found, segments, seen | {mark})
        return module


def _parts(tree):
    """The parts of a braced use tree."""
    depth, part = 0, []
    for token in tree:
        depth += token in OPEN
        depth -= token in CLOSE
        if token == "," and depth == 0:
            if part:
                yield part
            part = []
        else:
            part.append(token)
    if part:
        yield part


def targets(root):
    """(package, kind, root file) of each target of the workspace, build scripts apart."""
    command = ["cargo", "metadata", "--no-deps", "--format-version", "1", "--offline"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60, check=True)
    for package in json.loads(done.stdout)["packages"]:
        for target in package["targets"]:
            if target["kind"] != ["custom-build"]:
                yield package["name"], target["kind"][0], Path(target["src_path"])
