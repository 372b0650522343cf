"""A pool in a namespace of its own, with the account that may watch it, its model servers, and gateways in front of them."""

from kubernetes import client

import objects
from fleet import Fleet
from gateway import Gateway

LABELS = {"app": "vllm"}
READS = [
    objects.rule([""], ["pods"], ["list", "watch"]),
    objects.rule([objects.POOL_GROUP], ["inferencepools"], ["list", "watch"]),
    objects.rule([objects.POLICY_GROUP, objects.NEWER_POLICY_GROUP], ["inferenceobjectives", "inferencemodelrewrites"], ["list", "watch"]),
]


class Scene:
    """A namespace with a pool, the account that may watch it, and model servers."""

    def __init__(self, cluster, namespace, folder, envoy):
        self.cluster, self.namespace, self.folder, self.envoy = cluster, namespace, folder, envoy
        self.objects = client.CustomObjectsApi(cluster.api())
        self.fleet = Fleet(cluster, namespace, folder)
        self.gateways = []
        rbac = client.RbacAuthorizationV1Api(cluster.api())
        rbac.create_namespaced_role(namespace, objects.role("Role", "picker", READS))
        rbac.create_namespaced_role_binding(namespace, objects.role_binding("Role", "picker", "default", namespace))
        self.create("inferencepools", objects.pool("models", LABELS, [8000]))

    @staticmethod
    def _version(plural, group):
        if plural == "inferencepools":
            return objects.POOL_GROUP, "v1"
        return group, objects.POLICY_VERSION

    def create(self, plural, body):
        group, version = body["apiVersion"].split("/")
        self.objects.create_namespaced_custom_object(group, version, self.namespace, plural, body)

    def patch(self, plural, name, body, group=objects.POLICY_GROUP):
        self.objects.patch_namespaced_custom_object(*self._version(plural, group), self.namespace, plural, name, body)

    def delete(self, plural, name, group=objects.POLICY_GROUP):
        self.objects.delete_namespaced_custom_object(*self._version(plural, group), self.namespace, plural, name)

    def gateway(self, source=None, arguments=(), has_own_envoy=False):
        source = source or f"inferencepool:{self.namespace}/models"
        token = self.cluster.token(self.namespace, "default")
        folder = self.folder / f"gateway-{len(self.gateways)}"
        gateway = Gateway(folder, self.cluster, token, source, arguments, None if has_own_envoy else self.envoy)
        self.gateways.append(gateway)
        return gateway

    def member(self, name, number, port=8000):
        """A member of Envoy's cluster, with what is said of it."""
        return {f"{self.fleet.address(number)}:{port}": {"pod": name, "namespace": self.namespace}}

    def stop(self):
        for gateway in self.gateways:
            gateway.stop()
        self.fleet.stop()
