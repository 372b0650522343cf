"""Tests of the setup that need no network."""

import hashlib
import io
import os
import tempfile
import unittest
from contextlib import redirect_stderr
from pathlib import Path
from unittest import mock

import setup


class Setup(unittest.TestCase):
    def test_every_requirement_is_pinned_by_version_and_hash(self):
        for file in setup.REQUIREMENTS.glob("*.txt"):
            blocks = [block for block in file.read_text().replace("\\\n", " ").splitlines() if block and not block.startswith("#")]
            self.assertTrue(blocks, file)
            for block in blocks:
                self.assertRegex(block, r"^[a-z0-9-]+==\S+ .*--hash=sha256:[0-9a-f]{64}", file)

    def test_envoy_that_does_not_run_is_refused(self):
        with mock.patch.dict(os.environ, ENVOY="/no/such/envoy"), self.assertRaisesRegex(setup.Missing, "no/such/envoy"):
            setup.setup_envoy()

    def test_version_is_read_from_what_envoy_prints(self):
        line = "envoy  version: 0aabb/1.40.0/Clean/RELEASE/BoringSSL"
        with mock.patch.object(setup, "query", return_value=line):
            self.assertEqual(setup.version_of("envoy"), (1, 40, 0))
        with mock.patch.object(setup, "query", return_value=None):
            self.assertIsNone(setup.version_of("envoy"))

    def test_older_envoy_is_refused(self):
        with mock.patch.dict(os.environ, ENVOY="/usr/bin/envoy"), mock.patch.object(setup, "version_of", return_value=(1, 39, 3)):
            with self.assertRaisesRegex(setup.Missing, "1.40"):
                setup.setup_envoy()

    def test_command_is_tried_again_and_its_output_shown_at_last(self):
        with tempfile.TemporaryDirectory() as folder, mock.patch.object(setup.time, "sleep"):
            tries = Path(folder) / "tries"
            shown = io.StringIO()
            with redirect_stderr(shown), self.assertRaisesRegex(setup.Missing, "fetching failed"):
                setup.attempt("fetching", ["sh", "-c", f"echo x >> {tries}; echo no route; exit 1"])
            self.assertEqual(tries.read_text().count("x"), setup.ATTEMPTS)
            self.assertIn("no route", shown.getvalue())

    def test_missing_optional_tool_is_told_apart(self):
        with mock.patch.object(setup.shutil, "which", return_value=None), tempfile.TemporaryDirectory() as folder:
            with mock.patch.object(setup, "TOOLS", Path(folder)), redirect_stderr(io.StringIO()):
                self.assertEqual(setup.main(["promtool"]), 3)

    def test_fuzzing_is_left_out_where_there_is_no_cpp_compiler(self):
        with mock.patch.object(setup.shutil, "which", return_value=None), self.assertRaises(setup.Missing) as raised:
            setup.setup_cpp_compiler()
        self.assertTrue(raised.exception.optional)
        self.assertIn("C++", str(raised.exception))

    def test_a_tool_of_cargos_is_built_once_and_pinned(self):
        version = setup.locked_version("wasm-bindgen")
        with mock.patch.object(setup, "attempt") as attempt:
            with mock.patch.object(setup, "query", return_value=f"wasm-bindgen-test-runner {version}"):
                setup.setup_wasm_bindgen()
            attempt.assert_not_called()
            with mock.patch.object(setup, "query", return_value="wasm-bindgen-test-runner 0.1.0"), redirect_stderr(io.StringIO()):
                setup.setup_wasm_bindgen()
            command = attempt.call_args.args[1]
            self.assertEqual(command[command.index("--version") + 1], version)
            self.assertIn("--locked", command)

    def test_what_is_built_with_go_is_left_out_where_there_is_none(self):
        for build in (setup.setup_api_server, setup.setup_envoy_gateway):
            with tempfile.TemporaryDirectory() as folder, mock.patch.object(setup, "TOOLS", Path(folder)):
                with mock.patch.object(setup.shutil, "which", return_value=None), self.assertRaises(setup.Missing) as raised:
                    build()
            self.assertTrue(raised.exception.optional)
            self.assertIn("Go", str(raised.exception))

    def test_what_is_built_with_go_is_built_once_for_its_sources_and_leaves_no_caches(self):
        def build(_what, command, **options):
            if "build" in command:
                Path(command[command.index("-o") + 1]).write_text("program")
                Path(options["env"]["GOCACHE"]).mkdir()

        for name, path, build_it in (("api-server", setup.api_server_path, setup.setup_api_server),
                                     ("envoy-gateway", setup.envoy_gateway_path, setup.setup_envoy_gateway)):
            with tempfile.TemporaryDirectory() as folder, mock.patch.object(setup, "TOOLS", Path(folder)), redirect_stderr(io.StringIO()):
                outdated, other = Path(folder) / f"{name}-0123456789abcdef", Path(folder) / f"other-{name}-0123456789abcdef"
                outdated.touch()
                other.touch()
                with mock.patch.object(setup.shutil, "which", return_value="/usr/bin/go"), mock.patch.object(setup, "attempt", build):
                    build_it()
                self.assertEqual(set(Path(folder).iterdir()), {path(), other})
                with mock.patch.object(setup, "attempt", side_effect=AssertionError("built again")):
                    build_it()

    def test_all_tools_are_those_that_need_not_be_named(self):
        with mock.patch.object(setup, "ensure") as ensure:
            setup.main([])
            self.assertEqual({call.args[0] for call in ensure.call_args_list}, set(setup.SETUPS) - set(setup.BY_NAME))
            ensure.reset_mock()
            setup.main(["envoy-gateway"])
            ensure.assert_called_once_with("envoy-gateway")

    def test_api_server_is_of_the_version_that_its_parts_are_of(self):
        module = (setup.API_SERVER / "go.mod").read_text()
        _, minor, patch = setup.kubernetes_version().split(".")
        self.assertIn(f"=> k8s.io/api v0.{minor}.{patch}\n", module)

    def test_etcd_cannot_be_had_without_apt(self):
        with mock.patch.object(setup.shutil, "which", return_value=None), tempfile.TemporaryDirectory() as folder:
            with mock.patch.object(setup, "TOOLS", Path(folder)), redirect_stderr(io.StringIO()):
                self.assertEqual(setup.main(["etcd"]), 3)

    def test_a_package_of_debian_is_taken_if_it_is_listed_with_its_hash(self):
        with tempfile.TemporaryDirectory() as folder, mock.patch.object(setup, "ROOT", Path(folder)), \
                mock.patch.object(setup, "DEBIAN", Path(folder) / "debian.sha256"):
            package = Path(folder) / "etcd-server_3.4.23-4+b4_amd64.deb"
            package.write_bytes(b"package")
            digest = hashlib.sha256(b"package").hexdigest()
            setup.DEBIAN.write_text(f"# A comment.\n{digest}  {package.name}\n")
            setup.check_debian(package)
            package.write_bytes(b"something else")
            with self.assertRaisesRegex(setup.Missing, "not that of debian.sha256") as raised:
                setup.check_debian(package)
            self.assertFalse(raised.exception.optional)
            newer = package.rename(Path(folder) / "etcd-server_3.4.24-1_amd64.deb")
            with self.assertRaisesRegex(setup.Missing, f"add `[0-9a-f]{{64}}  {newer.name}`") as raised:
                setup.check_debian(newer)
            # Elsewhere one can do without the tests that need it.
            self.assertTrue(raised.exception.optional)

    def test_what_is_taken_of_debian_is_listed(self):
        names = {line.split("  ")[1].split("_")[0] for line in setup.DEBIAN.read_text().splitlines() if not line.startswith("#")}
        self.assertEqual(names, {"etcd-server", "prometheus"})

    def test_unknown_tool_is_an_error_of_usage(self):
        with redirect_stderr(io.StringIO()):
            self.assertEqual(setup.main(["no-such-tool"]), 2)


if __name__ == "__main__":
    unittest.main()
