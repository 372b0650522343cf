"""The machine that pods of a test run on: a network and mounts of the tests' own, which end with them."""

import os
import shutil
import subprocess

from process import LIBC

CLONE_NEWNS, CLONE_NEWNET = 0x00020000, 0x40000000
TOOLS = ("ip", "unshare", "nsenter", "setpriv", "mount", "chroot")
BRIDGE = "pods"
# The node's own address among its pods.
ADDRESS = "10.244.0.1"
PREFIX = 16


class Refused(Exception):
    """This machine does not let the tests have namespaces."""


def run(*command):
    """Runs a command of the machine."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=20)
    if done.returncode != 0:
        raise OSError(f"{' '.join(map(str, command))}: {done.stderr.strip()}")
    return done.stdout


def isolate():
    """Moves this process, and so all that it starts, into a network and mounts of its own, with a bridge for pods.

    Nothing of it is seen from outside, and it is gone when the last process of it is.
    """
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        raise Refused(f"there is no {', '.join(missing)}")
    if LIBC.unshare(CLONE_NEWNS | CLONE_NEWNET) != 0:
        raise Refused("namespaces are refused; the tests of pods need root")
    try:
        run("mount", "--make-rprivate", "/")
        run("ip", "link", "set", "lo", "up")
        run("ip", "link", "add", BRIDGE, "type", "bridge")
        run("ip", "address", "add", f"{ADDRESS}/{PREFIX}", "dev", BRIDGE)
        run("ip", "link", "set", BRIDGE, "up")
        # Without a member a bridge has no carrier, and its address answers nobody.
        run("ip", "link", "add", "first", "type", "veth", "peer", "name", "last")
        run("ip", "link", "set", "first", "master", BRIDGE, "up")
        run("ip", "link", "set", "last", "up")
    except OSError as error:
        raise Refused(str(error)) from error


def add_address(address):
    """Makes an address the node's own, as a Service's is."""
    run("ip", "address", "add", f"{address}/32", "dev", "lo")


def attach(number, address, pid):
    """Gives the network namespace of a process an address among the pods."""
    run("ip", "link", "add", f"pod{number}", "type", "veth", "peer", "name", "eth0", "netns", pid)
    run("ip", "link", "set", f"pod{number}", "master", BRIDGE, "up")
    inside = ["nsenter", "--target", pid, "--net", "ip"]
    run(*inside, "link", "set", "lo", "up")
    run(*inside, "address", "add", f"{address}/{PREFIX}", "dev", "eth0")
    run(*inside, "link", "set", "eth0", "up")


def own_network(pid):
    """Whether a process has left this one's network."""
    return os.readlink(f"/proc/{pid}/ns/net") != os.readlink("/proc/self/ns/net")
