"""Objects of Kubernetes that tests make."""

from kubernetes import client

POOL_GROUP = "inference.networking.k8s.io"
POLICY_GROUP = "inference.networking.x-k8s.io"
# The group that counts where both are there.
NEWER_POLICY_GROUP = "llm-d.ai"
POLICY_VERSION = "v1alpha2"
RBAC_GROUP = "rbac.authorization.k8s.io"
MODEL = "meta-llama/Llama-3.1-8B-Instruct"
NODE = "node-1"


def pool(name, selector, ports, failure_mode="FailOpen"):
    """An InferencePool."""
    return {
        "apiVersion": f"{POOL_GROUP}/v1", "kind": "InferencePool", "metadata": {"name": name},
        "spec": {
            "selector": {"matchLabels": selector}, "targetPorts": [{"number": port} for port in ports],
            "endpointPickerRef": {"name": "picker", "port": {"number": 9002}, "failureMode": failure_mode},
        },
    }


def objective(name, pool_name, priority, group=POLICY_GROUP):
    return {
        "apiVersion": f"{group}/{POLICY_VERSION}", "kind": "InferenceObjective", "metadata": {"name": name},
        "spec": {"priority": priority, "poolRef": {"name": pool_name}},
    }


def rewrite(name, pool_name, model, target, group=POLICY_GROUP):
    """An InferenceModelRewrite of one model to another."""
    rule = {"matches": [{"model": {"type": "Exact", "value": model}}], "targets": [{"modelRewrite": target}]}
    return {
        "apiVersion": f"{group}/{POLICY_VERSION}", "kind": "InferenceModelRewrite", "metadata": {"name": name},
        "spec": {"poolRef": {"name": pool_name}, "rules": [rule]},
    }


def model_pod(name, labels, annotations=None, node=NODE):
    """A pod of a model server, bound to a node whose kubelet is the test."""
    container = client.V1Container(name="vllm", image="vllm-sim", ports=[client.V1ContainerPort(container_port=8000)])
    return client.V1Pod(
        metadata=client.V1ObjectMeta(name=name, labels=labels, annotations=annotations),
        spec=client.V1PodSpec(containers=[container], node_name=node, termination_grace_period_seconds=30),
    )


def node(name=NODE):
    return client.V1Node(metadata=client.V1ObjectMeta(name=name))


def pod_status(address, ready=True):
    """The status of a pod that runs at an address; a patch."""
    truth = "True" if ready else "False"
    conditions = [{"type": kind, "status": truth, "lastTransitionTime": "2026-01-01T00:00:00Z"} for kind in ("Ready", "ContainersReady")]
    return {"status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}] if address else [], "conditions": conditions}}


def rule(groups, resources, verbs):
    """A rule of a role, about objects."""
    return {"apiGroups": groups, "resources": resources, "verbs": verbs}


def path_rule(paths, verbs):
    """A rule of a cluster role, about paths of any server that asks."""
    return {"nonResourceURLs": paths, "verbs": verbs}


def role(kind, name, rules):
    """`kind` is Role or ClusterRole."""
    return {"apiVersion": f"{RBAC_GROUP}/v1", "kind": kind, "metadata": {"name": name}, "rules": rules}


def role_binding(kind, name, account, namespace):
    """Gives the role of this kind and name to a service account, by a binding of the same name."""
    return {
        "apiVersion": f"{RBAC_GROUP}/v1", "kind": f"{kind}Binding", "metadata": {"name": name},
        "roleRef": {"apiGroup": RBAC_GROUP, "kind": kind, "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": namespace}],
    }
