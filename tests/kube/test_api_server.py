"""What the tests' own control plane must be able to do: if one of these fails, no other test of this folder means anything."""

import time

import pytest
from kubernetes import client
from kubernetes.client.exceptions import ApiException

import objects
from process import eventually


def pools(cluster):
    return client.CustomObjectsApi(cluster.api())


def create_pool(cluster, namespace, body):
    return pools(cluster).create_namespaced_custom_object(objects.POOL_GROUP, "v1", namespace, "inferencepools", body)


def test_it_knows_its_version(cluster):
    version = client.VersionApi(cluster.api()).get_code()
    assert (version.major, version.minor) == ("1", "37")


def test_a_pool_gets_its_defaults(cluster, namespace):
    made = create_pool(cluster, namespace, objects.pool("a", {"app": "vllm"}, [8000, 8001]))
    del made["spec"]["endpointPickerRef"]["failureMode"]
    made = create_pool(cluster, namespace, {**made, "metadata": {"name": "b"}})
    assert made["spec"]["endpointPickerRef"]["failureMode"] == "FailClose"
    assert made["spec"]["endpointPickerRef"]["kind"] == "Service"


@pytest.mark.parametrize("spoil", [
    lambda spec: spec.update(targetPorts=[]),
    lambda spec: spec.update(targetPorts=[{"number": 8000}, {"number": 8000}]),
    lambda spec: spec["selector"].update(matchLabels={}),
    lambda spec: spec["endpointPickerRef"].update(failureMode="FailSometimes"),
], ids=["no port", "a port twice", "no label", "failure mode"])
def test_a_wrong_pool_is_refused(cluster, namespace, spoil):
    body = objects.pool("a", {"app": "vllm"}, [8000])
    spoil(body["spec"])
    with pytest.raises(ApiException) as refusal:
        create_pool(cluster, namespace, body)
    assert refusal.value.status == 422


def test_a_deployment_gets_pods_and_a_service_its_endpoints(cluster, namespace):
    core, apps, discovery = (kind(cluster.api()) for kind in (client.CoreV1Api, client.AppsV1Api, client.DiscoveryV1Api))
    labels = {"app": "web"}
    pod = objects.model_pod("ignored", labels, node=None)
    apps.create_namespaced_deployment(namespace, client.V1Deployment(
        metadata=client.V1ObjectMeta(name="web"),
        spec=client.V1DeploymentSpec(
            replicas=2, selector=client.V1LabelSelector(match_labels=labels),
            template=client.V1PodTemplateSpec(metadata=client.V1ObjectMeta(labels=labels), spec=pod.spec),
        ),
    ))
    core.create_namespaced_service(namespace, client.V1Service(
        metadata=client.V1ObjectMeta(name="web"), spec=client.V1ServiceSpec(selector=labels, ports=[client.V1ServicePort(port=80, target_port=8000)]),
    ))

    def listed():
        pods = core.list_namespaced_pod(namespace).items
        return pods if len(pods) == 2 else None

    for number, pod in enumerate(eventually("two pods", listed)):
        target = client.V1ObjectReference(kind="Node", name=objects.NODE)
        binding = client.V1Binding(metadata=client.V1ObjectMeta(name=pod.metadata.name), target=target)
        core.create_namespaced_pod_binding(pod.metadata.name, namespace, binding, _preload_content=False)
        core.patch_namespaced_pod_status(pod.metadata.name, namespace, objects.pod_status(f"10.250.0.{number + 1}"))
    eventually("the Deployment is available", lambda: apps.read_namespaced_deployment("web", namespace).status.available_replicas == 2)

    def addresses():
        slices = discovery.list_namespaced_endpoint_slice(namespace).items
        return {address for entry in slices for endpoint in entry.endpoints or [] for address in endpoint.addresses}

    eventually("the Service's endpoints", lambda: addresses() == {"10.250.0.1", "10.250.0.2"})


def test_a_deleted_pod_stays_until_its_kubelet_says_so(cluster, namespace):
    core = client.CoreV1Api(cluster.api())
    core.create_namespaced_pod(namespace, objects.model_pod("a", {"app": "vllm"}))
    core.patch_namespaced_pod_status("a", namespace, objects.pod_status("127.9.9.9"))
    core.delete_namespaced_pod("a", namespace)
    pod = core.read_namespaced_pod("a", namespace)
    assert pod.metadata.deletion_timestamp is not None
    core.delete_namespaced_pod("a", namespace, grace_period_seconds=0)
    with pytest.raises(ApiException):
        core.read_namespaced_pod("a", namespace)


def test_a_brief_token_is_good_until_it_expires(cluster, namespace):
    def known(token):
        review = client.V1TokenReview(spec=client.V1TokenReviewSpec(token=token))
        return client.AuthenticationV1Api(cluster.api()).create_token_review(review).status.authenticated

    assert known(cluster.brief_token(namespace, "default", 30))
    # Nobody asked for it before: the API server keeps its own word for 10 s.
    brief = cluster.brief_token(namespace, "default", 1)
    time.sleep(2)
    assert not known(brief)
