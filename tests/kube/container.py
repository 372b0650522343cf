"""One container of a pod: a root of its own with the files of its image and its volumes, and the user that the pod names."""

import shlex
import shutil

from process import Process

# Directories of the machine that stand for an image's base: its C library.
BASE = ("/usr/lib", "/usr/lib64")


class Container:
    """A container that runs, in the network of a process. `image` says which files it has: path inside → path outside."""

    def __init__(self, name, image, command, env, mounts, security, folder, network_pid):
        self.name, self.network_pid = name, network_pid
        self.root = folder / "roots" / name
        self.root.mkdir(parents=True)
        self.user = security.get("runAsUser", 0)
        self.group = security.get("runAsGroup", self.user)
        script = self._script(image, mounts, command, env, security)
        self.process = Process(name, [
            "nsenter", f"--net=/proc/{network_pid}/ns/net", "unshare", "--mount", "--propagation", "private", "sh", "-euc", script,
        ], folder / f"{name}.log")

    def _script(self, image, mounts, command, env, security):
        root = shlex.quote(str(self.root))
        lines = [f"mount -t tmpfs -o mode=755 tmpfs {root}", f"cd {root}", "mkdir -p usr/lib usr/lib64 proc dev tmp etc",
                 "ln -s usr/lib lib", "ln -s usr/lib64 lib64"]
        for path in BASE:
            lines.append(f"[ ! -d {path} ] || mount --rbind -o ro {path} .{path}")
        lines += ["mount --rbind /proc proc", "mount --rbind /dev dev"]
        for inside, outside in image.items():
            at = shlex.quote("." + inside)
            lines.append(f"mkdir -p $(dirname {at}); touch {at}; mount --bind {shlex.quote(str(outside))} {at}")
        for inside, outside, read_only in mounts:
            at = shlex.quote("." + inside)
            lines.append(f"mkdir -p {at}; mount --bind {shlex.quote(str(outside))} {at}")
            if read_only:
                lines.append(f"mount -o remount,bind,ro {at}")
        if security.get("readOnlyRootFilesystem"):
            lines.append(f"mount -o remount,ro {root}")
        groups = security.get("fsGroup")
        words = ["env", "-i", *(f"{name}={value}" for name, value in env.items()), shutil.which("setpriv")]
        words += ["--no-new-privs"] if security.get("allowPrivilegeEscalation") is False else ["--bounding-set", "+all"]
        words += [shutil.which("chroot"), f"--userspec={self.user}:{self.group}", f"--groups={groups if groups is not None else ''}", str(self.root), *command]
        lines.append("exec " + " ".join(shlex.quote(str(word)) for word in words))
        return "\n".join(lines)

    def execute(self, name, command, log):
        """Starts a command beside the container's own, as a hook does."""
        return Process(name, [
            "nsenter", "--target", self.process.pid, "--net", "--mount", "--root", "--wd", "--setuid", self.user, "--setgid", self.group, *command,
        ], log)
