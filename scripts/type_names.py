"""Finds public types of different packages that share a name: one word says one thing in this repository.

Looks at every `pub struct`, `enum`, `trait`, `union` and `type` of libraries and programs; tests may name things as they like.
Prints each name that several packages have.
"""

from pathlib import Path

import rust_source

ROOT = Path(__file__).resolve().parent.parent
# Names that mean the same thing of each package, which its path then says.
ALLOWED = {
    "Config": "the configuration of a program or plugin",
    "ConfigError": "what is wrong with it",
    "LocalReply": "Envoy's local reply: what the picker asks for, and what host-sim sends",
}


def shared(types):
    """{name: packages} of the names that several packages have; `types` are (package, name)."""
    packages = {}
    for package, name in types:
        packages.setdefault(name, set()).add(package)
    return {name: found for name, found in sorted(packages.items()) if len(found) > 1}


def public(crate):
    return {str(name) for module in crate.modules() for name in module.types}


def breaches():
    types = []
    for package, kind, file in rust_source.targets(ROOT):
        if kind in ("lib", "cdylib", "bin"):
            types += [(package, name) for name in public(rust_source.Crate(file))]
    found = shared(types)
    for name, packages in found.items():
        if name not in ALLOWED:
            yield f"the type {name} is in {', '.join(sorted(packages))}: give one of them another word"
    for name in sorted(set(ALLOWED) - set(found)):
        yield f"scripts/type_names.py: {name} is in one package only and needs no exception"
