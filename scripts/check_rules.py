#!/usr/bin/env python3
"""Rules of the house that no linter knows. Prints each breach; exit code 1 if there is one.

    scripts/check_rules.py [RULE...]

RULE is one of: words (that some files may not use), circles (import_circles.py), types (type_names.py), features (feature_set.py).
With no RULE it checks all of them.
"""

import re
import subprocess
import sys
from pathlib import Path

import feature_set
import import_circles
import type_names

ROOT = Path(__file__).resolve().parent.parent
# The one file of the filter that calls the host.
HOST = "filter/src/host.rs"
# The files of the filter that may be unsafe: that one, and the one that the host calls.
FILTER_UNSAFE = (HOST, "filter/src/exports.rs")
# The native module: where Envoy's functions are declared and called, and where Envoy calls. Nothing else there is unsafe.
NATIVE = "dynamic-module/"
FOREIGN = ("dynamic-module/src/abi.rs", "dynamic-module/src/envoy/", "dynamic-module/src/hooks/")
# The profilers: the allocator is C, and so is what handles signals.
PROFILERS = ("cpu-profile/", "heap-profile/")
PROFILERS_UNSAFE = tuple(profiler + "src/sampler.rs" for profiler in PROFILERS)
UNSAFE = re.compile(r"\bunsafe\b|\bunsafe_code\b")
# The crate's own word that it denies the rest.
DENIED = "#![deny(unsafe_code)]"
# The core knows nothing of these: it is also to be bound natively, and tested with any clock and seed.
FOREIGN_TO_THE_CORE = re.compile(r"\b(proxy_wasm|std::time|std::net|std::fs|std::thread|tokio|Instant|SystemTime)\b")
CORE = "endpoint-picker/src/"


def forbidden_words():
    listing = subprocess.run(["git", "ls-files", "*.rs"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    for name in listing.stdout.split():
        file = ROOT / name
        if not file.exists():
            continue
        for number, line in enumerate(file.read_text().splitlines(), 1):
            code = line.split("//", 1)[0]
            if name.startswith("filter/src/") and name != HOST and re.search(r"\bhostcalls\b", code):
                yield f"{name}:{number}: only {HOST} calls the host"
            if name.startswith("filter/src/") and name not in FILTER_UNSAFE and UNSAFE.search(code):
                yield f"{name}:{number}: only {', '.join(FILTER_UNSAFE)} are unsafe"
            if name.startswith(NATIVE) and not name.startswith(FOREIGN) and UNSAFE.search(code) and code.strip() != DENIED:
                yield f"{name}:{number}: only {', '.join(FOREIGN)} are unsafe"
            if name.startswith(PROFILERS) and name not in PROFILERS_UNSAFE and UNSAFE.search(code):
                yield f"{name}:{number}: only {', '.join(PROFILERS_UNSAFE)} are unsafe"
            if name.startswith(CORE) and FOREIGN_TO_THE_CORE.search(code):
                yield f"{name}:{number}: the core knows nothing of {FOREIGN_TO_THE_CORE.search(code).group(1)}"
RULES = {
    "words": forbidden_words,
    "circles": import_circles.breaches,
    "types": type_names.breaches,
    "features": feature_set.breaches,
}


def main(names):
    unknown = set(names) - set(RULES)
    if unknown:
        sys.exit(f"unknown: {', '.join(sorted(unknown))}; there are: {', '.join(RULES)}")
    found = [breach for name in names or RULES for breach in RULES[name]()]
    print("\n".join(found), end="\n" if found else "")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
