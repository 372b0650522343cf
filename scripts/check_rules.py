#!/usr/bin/env python3
"""Rules of the house that no linter knows. Prints each breach; exit code 1 if there is one."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# The one file of the filter that calls the host.
HOST = "filter/src/host.rs"
# The core knows nothing of these: it is also to be bound natively, and tested with any clock and seed.
FOREIGN_TO_THE_CORE = re.compile(r"\b(proxy_wasm|std::time|std::net|std::fs|std::thread|tokio|Instant|SystemTime)\b")
CORE = "endpoint-picker/src/"


def breaches():
    listing = subprocess.run(["git", "ls-files", "*.rs"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    for name in listing.stdout.split():
        file = ROOT / name
        if not file.exists():
            continue
        for number, line in enumerate(file.read_text().splitlines(), 1):
            code = line.split("//", 1)[0]
            if name.startswith("filter/src/") and name != HOST and re.search(r"\bhostcalls\b", code):
                yield f"{name}:{number}: only {HOST} calls the host"
            if name.startswith(CORE) and FOREIGN_TO_THE_CORE.search(code):
                yield f"{name}:{number}: the core knows nothing of {FOREIGN_TO_THE_CORE.search(code).group(1)}"
    bootstraps = sorted(str(file.relative_to(ROOT)) for file in (ROOT / "envoy").glob("*.yaml"))
    marked = [name for name in bootstraps if "# stats_tags: begin" in (ROOT / name).read_text()]
    command = ["cargo", "run", "--quiet", "--package", "catalogue", "--bin", "stats-tags", "--", "--check", *marked]
    if subprocess.run(command, cwd=ROOT, timeout=600).returncode != 0:
        yield "envoy/: the stats_tags are out of date: run `make stats-tags`"


def main():
    found = list(breaches())
    print("\n".join(found), end="\n" if found else "")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
