"""What `make dist` puts together, of modules that are built already, and the images that are built of it."""

import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import rendered
from rendered import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
import dist

VERSION = dist.version()
CONTAINERFILES = sorted((ROOT / "deploy").glob("*.Containerfile"))


def built():
    """Binary, wasm module and native module, which stands for the binary, too, since that is five times as large."""
    native = Path(os.environ["INPICK_NATIVE"])
    return native, Path(os.environ["INPICK_WASM"]), native


@functools.cache
def made():
    """A folder with what was put together once for all tests."""
    scratch = tempfile.TemporaryDirectory(prefix="inpick-dist-")
    unittest.addModuleCleanup(scratch.cleanup)
    with mock.patch.dict(os.environ, {"SOURCE_DATE_EPOCH": "1700000000"}):
        return dist.put_together(*built(), Path(scratch.name)).parent


class Dist(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        (cls.archive,) = made().glob("*.tar.gz")
        cls.folder = made() / f"inpick-{VERSION}"

    def test_the_same_files_make_the_same_bytes(self):
        old = os.umask(0o077)
        self.addCleanup(os.umask, old)
        with tempfile.TemporaryDirectory() as scratch, mock.patch.dict(os.environ, {"SOURCE_DATE_EPOCH": "1700000000", "TZ": "Asia/Tokyo"}):
            again = dist.put_together(*built(), Path(scratch)).read_bytes()
        self.assertEqual(hashlib.sha256(again).hexdigest(), hashlib.sha256(self.archive.read_bytes()).hexdigest())

    def test_nothing_in_the_archive_is_of_this_machine(self):
        with tarfile.open(self.archive) as archive:
            members = archive.getmembers()
        self.assertEqual([member.name for member in members], sorted(member.name for member in members))
        for member in members:
            self.assertEqual((member.uid, member.gid, member.uname, member.gname, member.mtime), (0, 0, "", "", 1700000000), member.name)
            self.assertIn(member.mode, (0o644, 0o755))
        texts = [file for file in self.folder.rglob("*") if file.suffix in (".md", ".yaml", ".yml", ".json", ".toml", ".Containerfile", "")
                 and file.is_file() and "bin" not in file.parts]
        for file in texts:
            self.assertNotIn(str(ROOT), file.read_text(), file)

    def test_checksums_are_of_every_file(self):
        subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=self.folder, check=True, timeout=60)
        subprocess.run(["sha256sum", "--check", "--strict", "--quiet", f"{self.archive.name}.sha256"], cwd=self.archive.parent, check=True, timeout=60)
        listed = {line.split("  ", 1)[1] for line in (self.folder / "SHA256SUMS").read_text().splitlines()}
        files = {str(file.relative_to(self.folder)) for file in self.folder.rglob("*") if file.is_file()}
        self.assertEqual(files - listed, {"SHA256SUMS"})
        for needed in ("bin/inpick", "modules/filter.wasm", "modules/libinpick.so", f"chart/inpick-{VERSION}.tgz", "sbom.cdx.json", "envoy/fragment.yaml",
                       "observability/rules.yml", "kustomize/overlays/sidecar/kustomization.yaml", "REQUIREMENTS", "LICENSE"):
            self.assertIn(needed, files)

    def test_the_chart_in_it_is_the_chart(self):
        values = ["--values", str(rendered.VALUES / "everything.yaml"), "--set", "inpick.monitoring.dashboards=true", "--namespace", rendered.NAMESPACE]
        package = rendered.run("helm", "template", rendered.RELEASE, str(self.folder / "chart" / f"inpick-{VERSION}.tgz"), *values)
        self.assertEqual(package, rendered.run("helm", "template", rendered.RELEASE, str(rendered.CHART), *values))

    def test_the_bill_names_what_is_linked_and_nothing_else(self):
        bill = json.loads((self.folder / "sbom.cdx.json").read_text())
        self.assertEqual((bill["bomFormat"], bill["specVersion"], bill["metadata"]["component"]["version"]), ("CycloneDX", "1.6", VERSION))
        parts = {part["name"]: part for part in bill["components"]}
        for linked in ("serde_json", "tokio", "rustls", "prost", "granit-parser", "endpoint-picker"):
            self.assertIn(linked, set(parts))
        for other in ("proxy-wasm", "proptest", "wasmtime", "criterion", "vllm-sim", "simulation", "cc"):
            self.assertNotIn(other, set(parts))
        for part in parts.values():
            self.assertTrue(part.get("licenses"), part["name"])
            if "purl" in part:
                self.assertRegex(part["hashes"][0]["content"], "^[0-9a-f]{64}$")
        references = {dependency["ref"] for dependency in bill["dependencies"]}
        self.assertTrue({part["bom-ref"] for part in bill["components"]} <= references)

    def test_a_program_that_needs_a_newer_libc_is_not_shipped(self):
        native = built()[2]
        self.assertLessEqual(dist.needed_glibc(native), dist.GLIBC)
        self.assertIn("glibc {}.{} or newer".format(*dist.needed_glibc(native)), (self.folder / "REQUIREMENTS").read_text())
        with mock.patch.object(dist, "GLIBC", (2, 1)), self.assertRaises(dist.Broken):
            dist.needed_glibc(native)

    def test_pages_lead_to_files_that_are_there(self):
        for root, pages in ((ROOT / "deploy", ["README.md", *(f"docs/{page.name}" for page in (ROOT / "deploy" / "docs").glob("*.md"))]),
                            (self.folder, ["README.md", *(f"docs/{page.name}" for page in (ROOT / "deploy" / "docs").glob("*.md"))])):
            for page in pages:
                for link in re.findall(r"\]\(([^)#]+)[^)]*\)", (root / page).read_text()):
                    self.assertTrue((root / page).parent.joinpath(link).exists(), f"{root / page}: {link}")


class Builds(unittest.TestCase):
    def test_paths_of_the_machine_are_left_out_of_what_is_built(self):
        with mock.patch.object(dist.subprocess, "run") as run, mock.patch.dict(os.environ, {"CARGO_TARGET_DIR": "/elsewhere", "SOURCE_DATE_EPOCH": "1"}):
            run.return_value.stdout = "/somewhere/rust"
            dist.build()
            builds = [call.args[0] for call in run.call_args_list if call.args[0][:2] == ["cargo", "build"]]
        self.assertEqual(len(builds), 2)
        for command in builds:
            flags = [word for word in command if word.startswith("target.")]
            self.assertEqual({word.split(".")[1] for word in flags}, {dist.TARGET, dist.WASM_TARGET})
            for word in flags:
                for prefix in (ROOT, "/somewhere/rust", "/elsewhere/dist", Path(os.environ.get("CARGO_HOME", Path.home() / ".cargo")).resolve()):
                    self.assertIn(f'"--remap-path-prefix={prefix}=/', word)
                # The last one that fits counts.
                self.assertGreater(word.index("=/elsewhere/dist="), word.index(f"={ROOT}="))

    def test_what_is_not_the_same_in_two_builds_is_named(self):
        with tempfile.TemporaryDirectory() as scratch:
            one, other = Path(scratch) / "one", Path(scratch) / "other"
            for folder in (one, other):
                (folder / "bin").mkdir(parents=True)
                (folder / "bin" / "inpick").write_bytes(b"x" * 100 + b"program")
                (folder / "LICENSE").write_text("as is")
            self.assertEqual(list(dist.differences(one, other)), [])
            (other / "bin" / "inpick").write_bytes(b"x" * 100 + b"prograM of /home/me")
            (one / "late").touch()
            self.assertEqual(list(dist.differences(one, other)), [
                f"bin/inpick differs from byte 106 on: {b'x' * 34 + b'program'!r}, {b'x' * 34 + b'prograM of /home/me'!r}", "late is in one of them only"])

    def test_two_builds_are_of_clean_clones_under_other_names(self):
        def build(command, **options):
            if command[0] == "git":
                Path(command[-1], "scripts").mkdir(parents=True)
                return
            clones.append((options["cwd"], options["env"]["CARGO_TARGET_DIR"], "--quick" in command))
            goal = Path(command[command.index("--output") + 1])
            goal.mkdir()
            (goal / "a.tar.gz.sha256").write_text("0123  a.tar.gz\n")
            (goal / "module").write_text(str(options["cwd"]) if leaks else "the same")

        for leaks in (False, True):
            clones = []
            with mock.patch.object(dist.subprocess, "run", build):
                found, digest = dist.verify(quick=True)
            (one, target, quick), (other, elsewhere, _) = clones
            self.assertTrue(quick and digest == "0123")
            self.assertNotEqual(len(str(one)), len(str(other)))
            self.assertTrue(target.startswith(str(one)) and not elsewhere.startswith(str(other)))
            self.assertEqual([line.split()[0] for line in found], ["module"] if leaks else [])


class Images(unittest.TestCase):
    def instructions(self, file):
        """(word, rest) of each line that is no comment, with what it continues."""
        text = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", file.read_text(), flags=re.M))
        return [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]

    def test_the_linter_finds_nothing(self):
        self.assertEqual(len(CONTAINERFILES), 2)
        linter = str(ROOT / ".tools" / "venv" / "bin" / "hadolint")
        subprocess.run([linter, "--no-fail", "--version"], check=True, capture_output=True, timeout=60)
        done = subprocess.run([linter, *map(str, CONTAINERFILES)], capture_output=True, text=True, timeout=60)
        self.assertEqual((done.returncode, done.stdout), (0, ""))

    def test_bases_are_named_by_who_builds_and_nobody_is_root(self):
        for file in CONTAINERFILES:
            words = self.instructions(file)
            arguments = [rest for word, rest in words if word == "ARG"]
            self.assertFalse([argument for argument in arguments if "=" in argument], "a base with a default")
            bases = [rest.split()[0] for word, rest in words if word == "FROM"]
            self.assertEqual(set(bases), {f"${{{argument}}}" for argument in arguments})
            last = words[max(index for index, (word, _) in enumerate(words) if word == "FROM"):]
            self.assertIn(["USER", "65532:65532"], last)
            self.assertFalse([rest for word, rest in last if word == "RUN"], "the last base may have no shell")

    def test_each_step_runs_without_a_container_too(self):
        """In the folder that `make dist` made, as the build's first stage has it."""
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(shutil.copytree(made() / f"inpick-{VERSION}", Path(scratch) / "dist"))
            for file in CONTAINERFILES:
                words = self.instructions(file)
                commands = [rest for word, rest in words if word == "RUN"]
                self.assertTrue(commands)
                for command in commands:
                    subprocess.run(command, shell=True, cwd=folder, check=True, timeout=60)
                for rest in (rest for word, rest in words if word == "COPY" and "--from=files" in rest):
                    *sources, _ = [part for part in rest.split() if not part.startswith("--")]
                    for source in sources:
                        self.assertTrue((folder / source.removeprefix("/dist/")).is_file(), source)
            # A file that is not what was put together ends the build.
            (folder / "modules" / "filter.wasm").write_bytes(b"other")
            self.assertNotEqual(subprocess.run(commands[0], shell=True, cwd=folder, capture_output=True, timeout=60).returncode, 0)

    def test_files_are_where_the_chart_looks_for_them(self):
        pod = rendered.pick(rendered.objects(rendered.of_case("sidecar")), "Deployment")["spec"]["template"]["spec"]
        places = {part for file in CONTAINERFILES for word, rest in self.instructions(file) for part in re.findall(r"(?:/usr|/opt)\S*", rest)}
        for container in pod["initContainers"] + pod["containers"]:
            self.assertIn(container["command"][0], {*places, *(place.strip('["]') for place in places)})
        for module in ("/opt/inpick/filter.wasm", "/opt/inpick/libinpick.so"):
            self.assertIn(module, places)


if __name__ == "__main__":
    unittest.main()
