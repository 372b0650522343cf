"""The chart's bootstraps on the real Envoy: its start without an endpoint, its probes, and how it drains.

ENVOY, INPICK_WASM, INPICK_NATIVE and INPICK_BIN_DIR name what is run; `scripts/test.py chart` sets them.
"""

import contextlib
import http.client
import http.server
import json
import os
import socket
import subprocess
import tempfile
import threading
import time
import unittest
from pathlib import Path

import rendered
from rendered import objects, of_case

# Of a start, or of what Envoy does on its own within a second.
SECONDS = 60
EVENTS = 20
PORTS = (8081, 19001, 9901, 9091, 9090)


def free_ports(count):
    with contextlib.ExitStack() as sockets:
        taken = [sockets.enter_context(socket.socket()) for _ in range(count)]
        for one in taken:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in taken]


def until(check, what):
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        if found := check():
            return found
        time.sleep(0.05)
    raise AssertionError(f"no {what} after {SECONDS} s")


class ModelServer(http.server.BaseHTTPRequestHandler):
    """Streams events until `go_on` is set for the last ones."""

    protocol_version = "HTTP/1.1"
    go_on = threading.Event()

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for number in range(EVENTS):
            if number == EVENTS // 2 and asked["model"] == "slow":
                self.go_on.wait(SECONDS)
            event = f"data: {json.dumps({'choices': [{'index': 0, 'text': str(number)}]})}\n\n".encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *_):
        pass


class Gateway:
    """Envoy with a bootstrap of the chart, in which only paths and ports are this machine's."""

    def __init__(self, folder, text, environment=()):
        self.folder = folder
        self.ports = dict(zip(PORTS, free_ports(len(PORTS))))
        self.eds = folder / "eds"
        self.eds.mkdir()
        config = folder / "envoy.yaml"
        config.write_text(self.local(text))
        self.inpick("eds-file", "--cluster", "pool-default", str(self.eds / "default.json"))
        pod = rendered.pick(objects(of_case("sidecar")), "Deployment")["spec"]["template"]["spec"]["containers"][0]
        arguments = [word.replace("/etc/envoy/envoy.yaml", str(config)).replace("$(POD_NAME)", "gateway") for word in pod["args"]]
        self.log = open(folder / "envoy.log", "w+")
        self.process = subprocess.Popen([os.environ["ENVOY"], *arguments], stdout=self.log, stderr=self.log, stdin=subprocess.DEVNULL,
                                        env={**os.environ, **dict(environment)})
        try:
            until(lambda: self.status(19001, "/live") == 200, "start")
        except AssertionError:
            self.close()
            raise AssertionError(self.said()) from None

    def local(self, text):
        """A text of the chart with this machine's paths and ports in it."""
        for port, own in self.ports.items():
            text = text.replace(f"port_value: {port},", f"port_value: {own},").replace(f"port_value: {port}}}", f"port_value: {own}}}")
            text = text.replace(f"127.0.0.1:{port}", f"127.0.0.1:{own}").replace(f"0.0.0.0:{port}", f"127.0.0.1:{own}")
        for path, own in (("/opt/inpick/filter.wasm", "INPICK_WASM"), ("/opt/inpick/libinpick.so", "INPICK_NATIVE")):
            text = text.replace(path, os.environ[own])
        return text.replace("/run/inpick/eds", str(self.eds))

    def said(self):
        self.log.flush()
        return Path(self.log.name).read_text()[-3000:]

    def inpick(self, *arguments, **options):
        return subprocess.run([Path(os.environ["INPICK_BIN_DIR"]) / "inpick", *arguments], check=True, timeout=SECONDS, **options)

    def status(self, port, path):
        connection = http.client.HTTPConnection("127.0.0.1", self.ports[port], timeout=5)
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        except OSError:
            if self.process.poll() is not None:
                raise AssertionError(f"Envoy ended: {self.said()}") from None
            return None
        finally:
            connection.close()

    def ask(self, model="quick"):
        """A connection and its answer, whose head has come."""
        connection = http.client.HTTPConnection("127.0.0.1", self.ports[8081], timeout=SECONDS)
        connection.request("POST", "/v1/completions", json.dumps({"model": model, "prompt": "a", "stream": True}), {"content-type": "application/json"})
        return connection, connection.getresponse()

    def serve_from(self, port):
        """Puts one endpoint into the pool's file, as the sidecar does."""
        address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
        assignment = {"@type": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment", "cluster_name": "pool-default",
                      "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}]}
        (self.eds / "new").write_text(json.dumps({"version_info": "1", "resources": [assignment]}))
        (self.eds / "new").replace(self.eds / "default.json")

    def close(self):
        self.process.kill()
        self.process.wait(SECONDS)
        self.log.close()


class Accepted(unittest.TestCase):
    def test_the_bootstrap_for_istio_is_one(self):
        documents = objects((rendered.ROOT / "deploy" / "istio" / "gateway.yaml").read_text())
        text = rendered.pick(documents, "ConfigMap")["data"]["envoy.yaml"]
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch) / "envoy.yaml"
            file.write_text(text)
            done = subprocess.run([os.environ["ENVOY"], "--mode", "validate", "--disable-hot-restart", "-c", str(file), "--service-node", "router~10.0.0.1~a.b~c",
                                   "--service-cluster", "inpick-gateway"], capture_output=True, text=True, timeout=SECONDS)
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_every_bootstrap_of_the_chart_with_the_filter_is_one(self):
        for case in rendered.cases():
            if "libinpick" in (text := rendered.bootstrap(objects(of_case(case)))):
                # The module would start its sidecar, which wants a cluster: the other test runs it.
                continue
            with self.subTest(case), tempfile.TemporaryDirectory() as scratch:
                file, eds = Path(scratch) / "envoy.yaml", Path(scratch) / "eds"
                eds.mkdir()
                (eds / "default.json").write_text('{"version_info": "0", "resources": []}')
                file.write_text(text.replace("/run/inpick/eds", str(eds)).replace("/opt/inpick/filter.wasm", os.environ["INPICK_WASM"]))
                done = subprocess.run([os.environ["ENVOY"], "--mode", "validate", "--disable-hot-restart", "-c", str(file),
                                       "--service-node", "gateway", "--service-cluster", "inpick"],
                                      capture_output=True, text=True, timeout=SECONDS)
                self.assertEqual(done.returncode, 0, done.stderr)


class Running(unittest.TestCase):
    def setUp(self):
        self.servers = http.server.ThreadingHTTPServer(("127.0.0.1", 0), ModelServer)
        self.servers.daemon_threads = True
        ModelServer.go_on.clear()
        threading.Thread(target=self.servers.serve_forever, daemon=True).start()
        self.addCleanup(self.servers.server_close)
        self.addCleanup(self.servers.shutdown)
        self.addCleanup(ModelServer.go_on.set)

    def gateway(self, case, change=lambda text: text, environment=()):
        folder = tempfile.TemporaryDirectory(prefix="inpick-chart-")
        self.addCleanup(folder.cleanup)
        gateway = Gateway(Path(folder.name), change(rendered.bootstrap(objects(of_case(case)))), environment)
        self.addCleanup(gateway.close)
        return gateway

    def serves(self, gateway):
        """Whether one whole stream comes."""
        connection, answer = gateway.ask()
        with contextlib.closing(connection):
            return answer.status == 200 and answer.read().count(b"data: ") == EVENTS

    def listed(self):
        """The pool's flag with pods that are listed in the place of the InferencePool's."""
        return f"my=static:pod-1@127.0.0.1:{self.servers.server_address[1]}"

    def test_the_sidecar_of_the_pod_feeds_envoy_and_serves_the_page(self):
        gateway = self.gateway("sidecar")
        pod = rendered.pick(objects(of_case("sidecar")), "Deployment")["spec"]["template"]["spec"]
        flags = [gateway.local(flag).replace("my=inferencepool:my", self.listed()) for flag in pod["initContainers"][0]["args"]]
        flags[flags.index("--metrics-endpoint-auth=true")] = "--metrics-endpoint-auth=false"
        sidecar = subprocess.Popen([Path(os.environ["INPICK_BIN_DIR"]) / "inpick", *flags, f"--envoy-admin=http://127.0.0.1:{gateway.ports[9901]}"],
                                   stdout=subprocess.DEVNULL, stderr=gateway.log)
        self.addCleanup(sidecar.wait)
        self.addCleanup(sidecar.kill)
        until(lambda: self.serves(gateway), "stream from an endpoint of the file that the sidecar wrote")
        until(lambda: gateway.status(9090, "/readyz") == 200, "ready sidecar")
        until(lambda: gateway.status(9090, "/metrics") == 200, "metrics page")

    def test_it_starts_without_an_endpoint_and_serves_when_there_is_one(self):
        gateway = self.gateway("sidecar")
        self.assertEqual(gateway.status(19001, "/ready"), 200)
        connection, answer = gateway.ask()
        with contextlib.closing(connection):
            self.assertEqual(answer.status, 503)
            self.assertIn("error", json.loads(answer.read()))
        self.assertEqual(gateway.status(8081, "/metrics"), 404)
        gateway.serve_from(self.servers.server_address[1])
        until(lambda: self.serves(gateway), "stream from an endpoint of the file")

    def test_a_drain_waits_for_the_stream_that_is_open_and_takes_new_requests(self):
        gateway = self.gateway("sidecar")
        gateway.serve_from(self.servers.server_address[1])
        until(lambda: self.serves(gateway), "stream from an endpoint of the file")
        connection, answer = gateway.ask("slow")
        self.addCleanup(connection.close)
        admin = f"http://127.0.0.1:{gateway.ports[9901]}"
        drain = subprocess.Popen([Path(os.environ["INPICK_BIN_DIR"]) / "inpick", "drain", "--admin", admin, "--least", "1", "--most", str(SECONDS)])
        self.addCleanup(drain.wait)
        self.addCleanup(drain.kill)
        until(lambda: gateway.status(19001, "/ready") == 503, "failing probe")
        self.assertEqual(gateway.status(19001, "/live"), 200)
        late, late_answer = gateway.ask()
        with contextlib.closing(late):
            # Its client goes elsewhere with the next one.
            self.assertEqual((late_answer.status, late_answer.getheader("connection")), (200, "close"))
            self.assertEqual(late_answer.read().count(b"data: "), EVENTS)
        time.sleep(1.5)
        self.assertIsNone(drain.poll(), "it ended though a stream was open")
        ModelServer.go_on.set()
        self.assertEqual(answer.read().count(b"data: "), EVENTS)
        self.assertEqual(drain.wait(SECONDS), 0)

    def test_the_embedded_shape_serves_its_page_without_a_second_container(self):
        # Pods that are listed: there is no API server here.
        def change(text):
            text = text.replace("my=inferencepool:my", self.listed())
            return text.replace('"metrics-endpoint-auth":true', '"metrics-endpoint-auth":false,"envoy-admin":"http://127.0.0.1:9901"')

        gateway = self.gateway("embedded", change)
        until(lambda: self.serves(gateway), "stream from an endpoint of the file that the module wrote")
        until(lambda: gateway.status(9090, "/metrics") == 200, "metrics page")
        self.assertEqual(gateway.status(9090, "/healthz"), 200)
        self.assertEqual(gateway.status(19001, "/ready"), 200)


if __name__ == "__main__":
    unittest.main()
