"""A small kubelet and scheduler: it runs the pods of a cluster as what they say, on one node, each in a network namespace."""

import base64
import itertools
import os
import re
import threading
import time
import urllib.error
import urllib.request

from kubernetes import client
from kubernetes.client.exceptions import ApiException

import node
import objects
from container import Container
from process import Process, eventually

LOOK_SECONDS = 0.1
# What a container of the kind that only prepares something may take.
INIT_SECONDS = 60


class Kubelet:
    """Runs every pod of its namespaces. `images` maps the last part of an image's name to its files and what it runs by itself."""

    def __init__(self, cluster, namespaces, images, folder):
        self.cluster, self.namespaces, self.images, self.folder = cluster, namespaces, images, folder
        self.core = client.CoreV1Api(cluster.api())
        self.runs, self.over, self.numbers = {}, threading.Event(), itertools.count(1)
        self.wrong = []
        self.thread = threading.Thread(target=self._look, daemon=True)

    def start(self):
        self.thread.start()
        return self

    def stop(self):
        self.over.set()
        self.thread.join(20)
        for run in self.runs.values():
            run.kill()

    def _look(self):
        while not self.over.wait(LOOK_SECONDS):
            try:
                for namespace in self.namespaces:
                    self._sync(namespace)
            except Exception as error:  # The API server may be away: look again.
                self.wrong.append(error)

    def _sync(self, namespace):
        listed = client.ApiClient().sanitize_for_serialization(self.core.list_namespaced_pod(namespace).items)
        for pod in listed:
            uid, name = pod["metadata"]["uid"], pod["metadata"]["name"]
            if not pod["spec"].get("nodeName"):
                binding = client.V1Binding(
                    metadata=client.V1ObjectMeta(name=name), target=client.V1ObjectReference(kind="Node", name=objects.NODE)
                )
                self.core.create_namespaced_pod_binding(name, namespace, binding, _preload_content=False)
            elif uid not in self.runs:
                number = next(self.numbers)
                run = self.runs[uid] = PodRun(self, pod, number)
                run.thread.start()
            elif pod["metadata"].get("deletionTimestamp"):
                self.runs[uid].ending.set()

    def said(self):
        """The end of what the containers have printed."""
        logs = sorted(self.folder.glob("*/*.log"))
        return "\n".join(f"--- {log.parent.name}/{log.name}\n{log.read_text(errors='replace')[-1500:]}" for log in logs)


class PodRun:
    """One pod from its start to its end, in a thread of its own."""

    def __init__(self, kubelet, pod, number):
        self.kubelet, self.pod, self.number = kubelet, pod, number
        self.name, self.namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
        self.spec = pod["spec"]
        self.address = f"10.244.{2 + number // 250}.{number % 250 + 1}"
        self.folder = kubelet.folder / f"{number}-{self.name}"
        self.ending = threading.Event()
        self.containers, self.helpers, self.ready = {}, [], None
        # What each container's readiness probe said: whether it passes, when it is due again, and its failures in a row.
        self.probed = {}
        self.sidecars = []
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self):
        try:
            self._start()
            self._live()
            self._end()
        except Exception as error:
            self.kubelet.wrong.append(error)
            self._report(False, f"{error}")

    def _start(self):
        self.folder.mkdir(parents=True)
        self.folder.chmod(0o755)
        self.pause = Process("pause", ["unshare", "--net", "sleep", "infinity"], self.folder / "pause.log")
        self.helpers.append(self.pause)
        eventually("the pod's network", lambda: node.own_network(self.pause.pid))
        node.attach(self.number, self.address, self.pause.pid)
        self.volumes = {volume["name"]: self._volume(volume) for volume in self.spec.get("volumes", [])}
        self._report(False)
        for spec in self.spec.get("initContainers", []):
            container = self._container(spec)
            if spec.get("restartPolicy") == "Always":
                self.sidecars.append(spec["name"])
                self._wait_for_startup(spec)
            elif container.process.child.wait(INIT_SECONDS) != 0:
                raise AssertionError(f"{spec['name']} failed:\n{container.process.said()}")
            else:
                del self.containers[spec["name"]]
        for spec in self.spec["containers"]:
            self._container(spec)
        for spec in self.spec["containers"]:
            self._wait_for_startup(spec)

    def _specs(self):
        everything = self.spec.get("initContainers", []) + self.spec["containers"]
        return [spec for spec in everything if spec["name"] in self.containers]

    def _volume(self, volume):
        """A folder with what a volume holds."""
        path = self.folder / "volumes" / volume["name"]
        path.mkdir(parents=True)
        group = self.spec.get("securityContext", {}).get("fsGroup", 0)
        default_mode = 0o644
        if "emptyDir" in volume:
            os.chown(path, 0, group)
            path.chmod(0o2777)
            return path
        if "configMap" in volume:
            files = self._config_map(volume["configMap"]["name"], volume["configMap"].get("items"))
        elif "secret" in volume:
            files = self._secret(volume["secret"])
        elif "projected" in volume:
            default_mode = volume["projected"].get("defaultMode", default_mode)
            files = {}
            for source in volume["projected"]["sources"]:
                files.update(self._source(source))
        else:
            raise AssertionError(f"this kubelet knows no volume such as {volume}")
        for name, content in files.items():
            file = path / name
            file.write_bytes(content)
            os.chown(file, 0, group)
            file.chmod(default_mode)
        return path

    def _source(self, source):
        if "serviceAccountToken" in source:
            pod = self.kubelet.core.read_namespaced_pod(self.name, self.namespace)
            pod.kind = "Pod"
            wanted = source["serviceAccountToken"]
            account = self.spec.get("serviceAccountName", "default")
            token = self.kubelet.cluster.token(self.namespace, account, wanted.get("expirationSeconds", 3600), bound_to=pod)
            return {wanted["path"]: token.encode()}
        if "configMap" in source:
            return self._config_map(source["configMap"]["name"], source["configMap"].get("items"))
        if "downwardAPI" in source:
            items = source["downwardAPI"]["items"]
            return {item["path"]: self._field(item["fieldRef"]["fieldPath"]).encode() for item in items}
        raise AssertionError(f"this kubelet knows no source such as {source}")

    def _config_map(self, name, items):
        # The namespace's certificates are published some time after it is made.
        found = eventually(f"ConfigMap {name}", lambda: self.kubelet.core.read_namespaced_config_map(name, self.namespace))
        paths = {item["key"]: item["path"] for item in items} if items else {key: key for key in found.data}
        return {path: found.data[key].encode() for key, path in paths.items()}

    def _secret(self, source):
        found = self.kubelet.core.read_namespaced_secret(source["secretName"], self.namespace)
        return {key: base64.b64decode(value) for key, value in found.data.items()}

    def _field(self, path):
        if path == "status.podIP":
            return self.address
        return {"metadata.name": self.name, "metadata.namespace": self.namespace, "spec.nodeName": objects.NODE}[path]

    def _environment(self, spec):
        cluster = self.kubelet.cluster
        env = {"PATH": "/usr/local/bin", "HOSTNAME": self.name, "KUBERNETES_SERVICE_HOST": cluster.address, "KUBERNETES_SERVICE_PORT": str(cluster.port)}
        for entry in spec.get("env") or []:
            env[entry["name"]] = self._field(entry["valueFrom"]["fieldRef"]["fieldPath"]) if "valueFrom" in entry else entry.get("value", "")
        return env

    def _container(self, spec):
        image = self.kubelet.images[spec["image"].rsplit("/", 1)[-1].split(":")[0]]
        env = self._environment(spec)
        words = [*(spec.get("command") or image["entrypoint"]), *(spec.get("args") or [])]
        command = [re.sub(r"\$\((\w+)\)", lambda found: env.get(found[1], found[0]), word) for word in words]
        mounts = [(mount["mountPath"], self.volumes[mount["name"]], mount.get("readOnly", False)) for mount in spec.get("volumeMounts") or []]
        security = {**self.spec.get("securityContext", {}), **(spec.get("securityContext") or {})}
        container = Container(spec["name"], image["files"], command, env, mounts, security, self.folder, self.pause.pid)
        self.containers[spec["name"]] = container
        return container

    def _probe(self, spec, kind):
        """Whether a probe passes; without one it does."""
        probe = spec.get(kind)
        if probe is None:
            return True
        action = probe["httpGet"]
        port = action["port"]
        if not isinstance(port, int) and not str(port).isdigit():
            port = next(entry["containerPort"] for entry in spec["ports"] if entry.get("name") == port)
        try:
            with urllib.request.urlopen(f"http://{self.address}:{port}{action['path']}", timeout=max(probe.get("timeoutSeconds", 1), 5)) as answer:
                return answer.status < 400
        except (OSError, urllib.error.URLError):
            return False

    def _wait_for_startup(self, spec):
        container, probe = self.containers[spec["name"]], spec.get("startupProbe")
        if probe is None:
            return
        # Longer than the probe says: this machine may be slower than any node.
        patience = 4 * probe.get("periodSeconds", 10) * probe.get("failureThreshold", 3)
        container.process.wait_until(f"{spec['name']} starts", lambda: self._probe(spec, "startupProbe"), patience)

    def _live(self):
        """Until the pod is to end: tells the API server whether it is ready."""
        while not self.ending.wait(LOOK_SECONDS):
            ready = all([self._is_ready(spec) for spec in self._specs()])
            if ready != self.ready:
                self._report(ready)
            for container in self.containers.values():
                if not container.process.running():
                    raise AssertionError(f"{self.name}: {container.name} ended with {container.process.child.returncode}:\n{container.process.said()}")

    def _is_ready(self, spec):
        """Looks more often than the probe says until it passes, and then as often, and takes as many failures in a row for one."""
        probe, now = spec.get("readinessProbe") or {}, time.monotonic()
        passed, due, failures = self.probed.get(spec["name"], (False, now, 0))
        if passed and now < due:
            return True
        failures = 0 if self._probe(spec, "readinessProbe") else failures + 1
        passed = failures < (probe.get("failureThreshold", 3) if passed else 1)
        self.probed[spec["name"]] = passed, now + probe.get("periodSeconds", 10), failures
        return passed

    def _report(self, ready, message=None):
        self.ready = ready
        status = objects.pod_status(self.address, ready)
        if message:
            status["status"]["message"] = message[-1000:]
        try:
            self.kubelet.core.patch_namespaced_pod_status(self.name, self.namespace, status)
        except ApiException as error:
            if error.status != 404:
                raise

    def _end(self):
        """Hooks first, then the signal to the containers, then to the sidecars in the reverse order of their start."""
        deadline = time.monotonic() + self.spec.get("terminationGracePeriodSeconds", 30)
        main = [spec for spec in self.spec["containers"] if spec["name"] in self.containers]
        hooks = [(spec, self._hook(spec)) for spec in main]
        for spec, hook in hooks:
            if hook is not None:
                code = hook.child.wait(max(deadline - time.monotonic(), 1))
                if code != 0:
                    self.kubelet.wrong.append(AssertionError(f"preStop of {self.name}/{spec['name']} ended with {code}:\n{hook.said()}"))
        for spec in main:
            self.containers[spec["name"]].process.child.terminate()
        for name in [spec["name"] for spec in main] + self.sidecars[::-1]:
            self.containers[name].process.terminate(max(deadline - time.monotonic(), 2))
        self.pause.kill()
        self.kubelet.core.delete_namespaced_pod(self.name, self.namespace, grace_period_seconds=0)

    def _hook(self, spec):
        hook = (spec.get("lifecycle") or {}).get("preStop")
        if hook is None:
            return None
        if "sleep" in hook:
            return Process("a sleep", ["sleep", hook["sleep"]["seconds"]], self.folder / "hook.log")
        container = self.containers[spec["name"]]
        return container.execute(f"preStop of {spec['name']}", hook["exec"]["command"], self.folder / f"{spec['name']}-hook.log")

    def ended(self):
        """Whether it is over, with all its containers."""
        return not self.thread.is_alive()

    def kill(self):
        self.ending.set()
        for process in [*(container.process for container in self.containers.values()), *self.helpers]:
            process.kill()
