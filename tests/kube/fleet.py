"""Pods of model servers: objects in a cluster whose kubelet is the test, each with a simulated vLLM behind its address."""

import itertools
import secrets

from kubernetes import client
from kubernetes.client.exceptions import ApiException

import objects
from gateway import ask
from process import Process, binary, eventually

# Two runs on one machine have different networks, and so have two fleets of a run: all can serve on the same port, and what an Envoy learned
# of one's addresses says nothing of another's.
RUN = secrets.randbelow(200) + 20
NUMBERS = itertools.count(1)


class Fleet:
    """The pods of a namespace. Addresses are told apart by their last number."""

    def __init__(self, cluster, namespace, folder):
        self.cluster, self.namespace, self.folder = cluster, namespace, folder
        self.core = client.CoreV1Api(cluster.api())
        self.servers = {}
        self.network = f"127.{RUN}.{next(NUMBERS)}"

    def address(self, number):
        return f"{self.network}.{number}"

    def create(self, name, labels, annotations=None):
        """A pod that has been scheduled and has no address yet."""
        self.core.create_namespaced_pod(self.namespace, objects.model_pod(name, labels, annotations))

    def serve(self, name, number, ports=(8000,), arguments=()):
        """Starts the pod's servers, and waits until they answer."""
        for port in ports:
            address = self.address(number)
            server = Process(f"vllm-sim {name}", [
                binary("vllm-sim"), "--host", address, "--port", port, "--pod-name", name, "--speed", "0", *arguments,
            ], self.folder / f"{name}-{port}.log")
            self.servers.setdefault(name, []).append(server)
            server.wait_until(f"{name} answers", lambda: ask(f"http://{address}:{port}/health").status == 200)

    def report(self, name, number, ready=True):
        """The pod's status: its address, and whether it is ready."""
        address = self.address(number) if number is not None else None
        pod = self.core.read_namespaced_pod(name, self.namespace)
        # Not a patch: that would add an address to those that are there.
        pod.status = client.V1PodStatus(
            phase="Running", pod_ip=address, pod_ips=[client.V1PodIP(ip=address)] if address else None,
            conditions=[client.V1PodCondition(type="Ready", status="True" if ready else "False")],
        )
        self.core.replace_namespaced_pod_status(name, self.namespace, pod)

    def add(self, name, number, labels, ports=(8000,), annotations=None, arguments=()):
        """A pod that is ready and serves."""
        self.create(name, labels, annotations)
        self.serve(name, number, ports, arguments)
        self.report(name, number)

    def begin_to_end(self, name):
        """Deletes the pod with its grace: it has a deletionTimestamp, and goes on serving."""
        self.core.delete_namespaced_pod(name, self.namespace)

    def end(self, name):
        """What a kubelet does when the containers have ended."""
        for server in self.servers.pop(name, []):
            server.kill()
        self.core.delete_namespaced_pod(name, self.namespace, grace_period_seconds=0)
        eventually(f"{name} is gone", lambda: not self.exists(name))

    def exists(self, name):
        try:
            self.core.read_namespaced_pod(name, self.namespace)
        except ApiException as error:
            if error.status == 404:
                return False
            raise
        return True

    def stop(self):
        for servers in self.servers.values():
            for server in servers:
                server.kill()
