"""Programs that a test runs beside itself, each with a log, none of which outlives the test."""

import ctypes
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Longer than anything takes on a busy machine.
PATIENCE = 60
KILL_SECONDS = 10
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None, use_errno=True)


class EarlyExit(Exception):
    """A program has ended that should run."""


def binary(name):
    """Where a program of this repository is."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    return str(Path(os.environ.get("INPICK_BIN_DIR", target / "debug")) / name)


def free_port(address="127.0.0.1"):
    """A port that nobody listens on."""
    with socket.socket() as held:
        held.bind((address, 0))
        return held.getsockname()[1]


def eventually(what, condition, patience=PATIENCE, pause=0.05):
    """Waits until `condition` gives something true, and gives that. What it raised last is said if it never does."""
    deadline = time.monotonic() + patience
    while True:
        error = None
        try:
            if found := condition():
                return found
        except EarlyExit:
            raise
        except Exception as raised:  # A server that is not there yet raises what its client raises.
            error = raised
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {patience} s: {what}" + (f": {error!r}" if error else ""))
        time.sleep(pause)


def dies_with_parent():
    """In a child: the kernel kills it with the thread that made it, even if that is killed itself."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Process:
    """A program with its output in a file. It stays in the tests' process group, so whoever ends that ends it too."""

    def __init__(self, name, command, log, env=None, tied=True):
        self.name, self.log = name, Path(log)
        self.command = [str(word) for word in command]
        with open(self.log, "ab") as output:
            self.child = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env={**os.environ, **(env or {})},
                preexec_fn=dies_with_parent if tied else None,
            )

    @property
    def pid(self):
        return self.child.pid

    def running(self):
        return self.child.poll() is None

    def said(self):
        """The end of what it has printed."""
        return self.log.read_text(errors="replace")[-6000:]

    def wait_until(self, what, condition, patience=PATIENCE):
        """Waits for something that only this program can bring about."""

        def checked():
            if not self.running():
                raise EarlyExit(f"{self.name} ended with {self.child.returncode}:\n{self.said()}")
            return condition()

        try:
            return eventually(what, checked, patience)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.name} said:\n{self.said()}") from None

    def kill(self):
        """Ends it at once."""
        if self.running():
            self.child.kill()
        self.child.wait(KILL_SECONDS)

    def terminate(self, patience=KILL_SECONDS):
        """Asks it to end, and gives its exit code; kills it if it does not."""
        if self.running():
            self.child.terminate()
        try:
            return self.child.wait(patience)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def signal(self, number):
        self.child.send_signal(number)

    def resident_bytes(self):
        """Memory that it holds."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmRSS:")).split()[1]) * 1024

