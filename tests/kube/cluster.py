"""A Kubernetes control plane of a test's own: etcd, the API server, and the controllers of Deployments, Services and service accounts."""

import base64
import http.client
import json
import os
import secrets
import ssl
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path

import jwt
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from kubernetes import client

from process import PATIENCE, Process, eventually, free_port

ISSUER = "https://kubernetes.default.svc"
# The API server takes a token for so long after its expiry, for clocks that differ.
LEEWAY_SECONDS = 60
# The first address of the Services' range is the API server's own Service.
SERVICE_RANGE = "10.96.0.0/24"
SERVICE_ADDRESS = "10.96.0.1"
CONTROLLERS = (
    "deployment-controller", "replicaset-controller", "endpointslice-controller", "serviceaccount-controller", "serviceaccount-token-controller",
    "root-ca-certificate-publisher-controller", "namespace-controller", "garbage-collector-controller", "disruption-controller",
)


class Cluster:
    """Starts on free ports with all its state in `folder`. `address` is where the API server listens; the certificate holds it."""

    def __init__(self, folder, address="127.0.0.1"):
        self.folder, self.address = Path(folder), address
        self.admin_token = secrets.token_hex(16)
        self.port, self.etcd_port, self.peer_port = free_port(address), free_port(), free_port()
        self.etcd = self.server = self.controllers = None

    @property
    def url(self):
        return f"https://{self.address}:{self.port}"

    @property
    def ca_file(self):
        """The certificates that the API server's lead to."""
        return self.folder / "certs" / "apiserver.crt"

    def start(self):
        self.folder.mkdir(parents=True, exist_ok=True)
        self.signing_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        pem = self.signing_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        self._write("sa.key", pem.decode())
        self._write("tokens.csv", f'{self.admin_token},admin,admin,"system:masters"\n')
        peer = f"http://127.0.0.1:{self.peer_port}"
        self.etcd = Process("etcd", [
            "etcd", "--data-dir", self.folder / "etcd", "--unsafe-no-fsync", "--logger", "zap",
            "--listen-client-urls", self.etcd_url, "--advertise-client-urls", self.etcd_url,
            "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}",
        ], self.folder / "etcd.log")
        self.start_server()
        self._write("admin.kubeconfig", self.kubeconfig(self.admin_token))
        self._start_controllers()
        # A pod can be made in a namespace once its default service account is there.
        core = client.CoreV1Api(self.api())
        self.controllers.wait_until("the default service account", lambda: core.read_namespaced_service_account("default", "default"))
        return self

    @property
    def etcd_url(self):
        return f"http://127.0.0.1:{self.etcd_port}"

    def start_server(self):
        """Starts the API server, and waits until it is ready."""
        self.server = Process("the API server", [
            os.environ["API_SERVER"], "apiserver", f"--etcd-servers={self.etcd_url}", f"--bind-address={self.address}",
            f"--advertise-address={self.address}", f"--secure-port={self.port}", "--cert-dir", self.folder / "certs",
            f"--service-account-issuer={ISSUER}", "--service-account-key-file", self.folder / "sa.key",
            "--service-account-signing-key-file", self.folder / "sa.key", "--token-auth-file", self.folder / "tokens.csv",
            "--authorization-mode=RBAC", f"--service-cluster-ip-range={SERVICE_RANGE}", "--endpoint-reconciler-type=none",
        ], self.folder / "api-server.log")
        self.server.wait_until("the API server is ready", lambda: self.get("/readyz") == b"ok")
        if self.controllers is not None:
            # After some failures they would try again only every 30 s.
            self.controllers.kill()
            self._start_controllers()

    def _start_controllers(self):
        self.controllers = Process("controllers", [
            os.environ["API_SERVER"], "controllers", "--kubeconfig", self.folder / "admin.kubeconfig", "--leader-elect=false", "--secure-port=0",
            f"--controllers={','.join(CONTROLLERS)}", "--service-account-private-key-file", self.folder / "sa.key",
            "--root-ca-file", self.ca_file,
        ], self.folder / "controllers.log")

    def stop(self):
        for process in (self.controllers, self.server, self.etcd):
            if process is not None:
                process.kill()

    def restart_server(self):
        """Kills the API server, and starts it again."""
        self.server.kill()
        self.start_server()

    def compact(self):
        """Makes etcd forget every past revision, so that a watch cannot go on from one."""
        key = base64.b64encode(b"a").decode()
        revision = self._etcd("/v3/kv/range", {"key": key})["header"]["revision"]
        self._etcd("/v3/kv/compaction", {"revision": revision, "physical": True})
        return int(revision)

    def _etcd(self, path, body):
        request = urllib.request.Request(self.etcd_url + path, json.dumps(body).encode(), method="POST")
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def get(self, path):
        """The body of an answer of the API server to its administrator."""
        context = ssl.create_default_context(cafile=str(self.ca_file))
        request = urllib.request.Request(self.url + path, headers={"Authorization": f"Bearer {self.admin_token}"})
        with urllib.request.urlopen(request, timeout=5, context=context) as answer:
            return answer.read()

    def copy_pod(self, namespace, name, copies):
        """Puts copies of a pod, (name, address) each, into etcd: through the API server a thousand pods take half a minute."""
        pod = json.loads(self.get(f"/api/v1/namespaces/{namespace}/pods/{name}"))
        del pod["metadata"]["resourceVersion"]
        connection = http.client.HTTPConnection("127.0.0.1", self.etcd_port, timeout=PATIENCE)
        # One by one, as the API server would: no two objects have one revision.
        for name, address in copies:
            copy = {**pod, "metadata": {**pod["metadata"], "name": name, "uid": str(uuid.uuid4())}}
            copy["status"] = {**pod["status"], "podIP": address, "podIPs": [{"ip": address}]}
            put = {"key": f"/registry/pods/{namespace}/{name}", "value": json.dumps(copy)}
            body = {field: base64.b64encode(text.encode()).decode() for field, text in put.items()}
            connection.request("POST", "/v3/kv/put", json.dumps(body))
            answer = connection.getresponse()
            text = answer.read()
            assert answer.status == 200, text
        connection.close()

    def api(self, token=None):
        """A client; the administrator's if no token is given."""
        settings = client.Configuration(host=self.url, api_key={"authorization": f"Bearer {token or self.admin_token}"})
        settings.ssl_ca_cert = str(self.ca_file)
        # A client whose server was killed meanwhile tries again on a new connection.
        settings.retries = 3
        return client.ApiClient(settings)

    def kubeconfig(self, token, namespace="default"):
        """A kubeconfig as text, for programs that read one."""
        authority = base64.b64encode(self.ca_file.read_bytes()).decode()
        return yaml.safe_dump({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": self.url, "certificate-authority-data": authority}}],
            "users": [{"name": "test", "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": namespace}}],
        })

    def token(self, namespace, account, seconds=3600, bound_to=None):
        """A token of a service account, as a kubelet asks for one; `bound_to` is an object that it dies with."""
        reference = None
        if bound_to is not None:
            reference = client.V1BoundObjectReference(
                api_version="v1", kind=bound_to.kind, name=bound_to.metadata.name, uid=bound_to.metadata.uid
            )
        spec = client.V1TokenRequestSpec(audiences=[ISSUER], expiration_seconds=seconds, bound_object_ref=reference)
        core = client.CoreV1Api(self.api())
        return core.create_namespaced_service_account_token(account, namespace, client.AuthenticationV1TokenRequest(spec=spec)).status.token

    def brief_token(self, namespace, account, seconds):
        """A token that lives shorter than the API server would make one: signed with its own key."""
        token = self.token(namespace, account)
        claims = jwt.decode(token, options={"verify_signature": False})
        now = int(time.time())
        claims.update(iat=now - 2 * LEEWAY_SECONDS, nbf=now - 2 * LEEWAY_SECONDS, exp=now + seconds - LEEWAY_SECONDS)
        return jwt.encode(claims, self.signing_key, algorithm="RS256", headers={"kid": jwt.get_unverified_header(token)["kid"]})

    def namespace(self):
        """The name of a new namespace, with the service account that its pods have."""
        name = f"test-{secrets.token_hex(4)}"
        core = client.CoreV1Api(self.api())
        core.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name=name)))
        eventually(f"a service account in {name}", lambda: core.read_namespaced_service_account("default", name))
        return name

    def install(self, definition):
        """Installs a CustomResourceDefinition, and waits until the API server serves its kind."""
        client.ApiextensionsV1Api(self.api()).create_custom_resource_definition(definition)
        for path in self._paths(definition):
            eventually(f"{path} is served", lambda: self.get(path))

    def uninstall(self, definition):
        """Takes a CustomResourceDefinition away with all its objects, and waits until the API server knows its kind no more."""
        extensions, name = client.ApiextensionsV1Api(self.api()), definition["metadata"]["name"]
        extensions.delete_custom_resource_definition(name)
        for path in self._paths(definition):
            eventually(f"{path} is gone", lambda: not self.has(path))
        eventually(f"{name} is gone", lambda: not self.has(f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}"))

    def has(self, path):
        """Whether there is something at a path."""
        try:
            self.get(path)
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return False
            raise
        return True

    @staticmethod
    def _paths(definition):
        """Where each served version of a definition lists its objects."""
        plural, group = definition["spec"]["names"]["plural"], definition["spec"]["group"]
        return [f"/apis/{group}/{version['name']}/{plural}" for version in definition["spec"]["versions"] if version["served"]]

    def _write(self, name, text):
        path = self.folder / name
        path.write_text(text)
        path.chmod(0o600)

