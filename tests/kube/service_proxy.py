"""The Services of a cluster as a node serves them: a connection to a Service's address goes to one of its ready endpoints."""

import asyncio
import contextlib
import random
import threading

from kubernetes import client

import node

LOOK_SECONDS = 0.1
CHUNK_BYTES = 65536


class ServiceProxy:
    """Connections that stand stay where they are; a new one goes to an endpoint that is ready, or to one that ends if none is."""

    def __init__(self, cluster, namespace, name):
        self.namespace, self.name = namespace, name
        self.core, self.discovery = client.CoreV1Api(cluster.api()), client.DiscoveryV1Api(cluster.api())
        service = self.core.read_namespaced_service(name, namespace)
        self.address = service.spec.cluster_ip
        self.ports = {port.name: port.port for port in service.spec.ports}
        self.targets = {}
        self.loop = self.serving = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.listening = threading.Event()

    def start(self):
        node.add_address(self.address)
        self.thread.start()
        assert self.listening.wait(20)
        return self

    def stop(self):
        self.loop.call_soon_threadsafe(self.serving.cancel)
        self.thread.join(10)

    def url(self, port):
        return f"http://{self.address}:{self.ports[port]}"

    def _run(self):
        with contextlib.suppress(asyncio.CancelledError):
            asyncio.run(self._serve())

    async def _serve(self):
        self.loop, self.serving = asyncio.get_running_loop(), asyncio.current_task()
        for name, port in self.ports.items():
            await asyncio.start_server(lambda reader, writer, name=name: self._connect(name, reader, writer), self.address, port)
        self.listening.set()
        while True:
            try:
                self.targets = await self.loop.run_in_executor(None, self._read)
            except Exception:  # The API server may be away: what was known stands.
                pass
            await asyncio.sleep(LOOK_SECONDS)

    def _read(self):
        """Addresses by the name of the Service's port."""
        ready, ending = {}, {}
        listed = self.discovery.list_namespaced_endpoint_slice(self.namespace, label_selector=f"kubernetes.io/service-name={self.name}")
        for entry in listed.items:
            for port in entry.ports or []:
                for endpoint in entry.endpoints or []:
                    conditions = endpoint.conditions
                    found = ready if conditions.ready else ending if conditions.serving else None
                    if found is not None:
                        found.setdefault(port.name, []).extend((address, port.port) for address in endpoint.addresses)
        return {name: ready.get(name) or ending.get(name) or [] for name in self.ports}

    async def _connect(self, name, reader, writer):
        targets = self.targets.get(name) or []
        random.shuffle(targets := list(targets))
        for address, port in targets:
            try:
                inner_reader, inner_writer = await asyncio.open_connection(address, port)
            except OSError:
                continue
            await asyncio.gather(self._copy(reader, inner_writer), self._copy(inner_reader, writer))
            return
        writer.transport.abort()

    @staticmethod
    async def _copy(reader, writer):
        try:
            while data := await reader.read(CHUNK_BYTES):
                writer.write(data)
                await writer.drain()
        except OSError:
            # What one side did not see the end of, the other must not take for one.
            writer.transport.abort()
        finally:
            writer.close()
