#!/usr/bin/env python3
"""Builds with clippy in the compiler's place, and fails if it warned of anything in this workspace.

    scripts/linted_build.py CARGO_ARGUMENT...

`cargo clippy` checks each dependency once more than `cargo build` compiles it, and neither uses what the other made. Clippy's driver compiles
too, so that one build serves the lints and the tests. A warning fails this program and no other build: the tests run either way.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Cargo keeps what one driver and its lints have made apart from what others make: every build that is to share needs the same.
# Lints that Cargo.toml denies warn here, so that what has one is compiled.
ENVIRONMENT = {"RUSTC_WORKSPACE_WRAPPER": "clippy-driver", "CLIPPY_ARGS": "--cap-lints__CLIPPY_HACKERY__warn__CLIPPY_HACKERY__"}


def warnings(lines):
    """What the compiler said in a build's messages in JSON, each once: a file can belong to a library and to its tests."""
    said = {}
    for line in lines:
        message = json.loads(line) if line.startswith("{") else {}
        text = message["message"]["rendered"] if message.get("reason") == "compiler-message" else None
        if text and text not in said:
            said[text] = None
            print(text, file=sys.stderr, flush=True)
    return list(said)


def build(arguments, folder=ROOT):
    """Exit code of a build, 1 if it warned."""
    command = ["cargo", *arguments, "--message-format", "json"]
    with subprocess.Popen(command, cwd=folder, env=os.environ | ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as process:
        said = warnings(process.stdout)
    return process.returncode or int(bool(said))


if __name__ == "__main__":
    sys.exit(build(sys.argv[1:]))
