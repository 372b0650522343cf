#!/usr/bin/env python3
"""Looks for undefined behaviour, for memory that is used after its time, and for data races, with a pinned nightly compiler.

    scripts/sanitize.py [CHECK...]

CHECK is one of: miri (dm-host with its guest), threads (the shared routing under ThreadSanitizer). With no CHECK it runs both.

Each builds what it runs anew, in target/sanitize/CHECK: some minutes at first. Exit code 0: nothing was found. 1: something was.
"""

import os
import subprocess
import sys

import setup

TARGET = "x86_64-unknown-linux-gnu"
# A first build on two cores, the standard library included.
SECONDS = 3600


CHECKS = {
    # Real time is asked of the system. A guest's process-wide state and the threads that some tests leave running end with the process.
    "miri": (["miri", "test", "--package", "dm-host"], {"MIRIFLAGS": "-Zmiri-disable-isolation -Zmiri-ignore-leaks"}),
    "threads": (
        ["test", "-Zbuild-std", "--target", TARGET, "--package", "shared-routing"],
        {"RUSTFLAGS": "-Zsanitizer=thread --cfg sanitized", "TSAN_OPTIONS": "halt_on_error=1"},
    ),
}


def run(check):
    arguments, environment = CHECKS[check]
    folder = setup.ROOT / "target" / "sanitize" / check
    command = ["cargo", f"+{setup.NIGHTLY}", *arguments, "--target-dir", str(folder)]
    print(f"{check}: {' '.join(command)}", flush=True)
    try:
        return subprocess.run(command, cwd=setup.ROOT, env={**os.environ, **environment}, timeout=SECONDS).returncode
    except subprocess.TimeoutExpired:
        print(f"{check}: no end after {SECONDS} s", file=sys.stderr)
        return 1


def main(checks):
    unknown = [check for check in checks if check not in CHECKS]
    if unknown:
        print(f"unknown: {', '.join(unknown)}\n{__doc__}", file=sys.stderr)
        return 2
    setup.ensure("nightly")
    failed = [check for check in checks or CHECKS if run(check) != 0]
    if failed:
        print(f"FAILED: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
