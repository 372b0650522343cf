"""Envoy's bootstraps for a pod, made of those in envoy/ by what differs in a pod."""

import re

# Where the images have the modules.
MODULES = {
    "target/wasm32-wasip1/wasm/filter.wasm": "/opt/inpick/filter.wasm",
    "target/native/libinpick.so": "/opt/inpick/libinpick.so",
}
HEAD = """\
# Written by deploy/generate.py from envoy/{source}, which says why each piece is there. Helm fills in address, maxHeapBytes and filter.
"""
# For the kubelet, which does not reach the admin page on loopback. What the connection limit leaves no place for must not fail a probe.
PROBES = """\
  listeners:
  # For the kubelet's probes: /ready fails once POST /healthcheck/fail began to drain the gateway, /live does not.
  - name: probes
    address: {socket_address: {address: "{{ .address }}", port_value: 19001, ipv4_compat: {{ contains ":" .address }}}}
    # An Envoy that refuses requests for want of memory is alive.
    ignore_global_conn_limit: true
    bypass_overload_manager: true
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: probes
          route_config:
            name: probes
            virtual_hosts:
            - name: probes
              domains: ["*"]
              routes:
              - {match: {path: /live}, direct_response: {status: 200}}
          http_filters:
          - name: envoy.filters.http.health_check
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.health_check.v3.HealthCheck
              pass_through_mode: false
              headers: [{name: ":path", string_match: {exact: /ready}}]
          - name: envoy.filters.http.router
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
"""
FILTER = re.compile(r"( +)value: \|\n +\{\"pool\": \"default\".*\n")


class NotFound(Exception):
    """A bootstrap of envoy/ has no longer the piece that is changed for a pod."""


def once(pattern, replacement, text):
    """Replaces what must be there exactly once."""
    found, count = re.subn(pattern, lambda _: replacement, text, flags=re.M)
    if count != 1:
        raise NotFound(f"{count} times instead of once: {pattern}")
    return found


def template(source, text):
    """The Helm template of one bootstrap. Raises NotFound."""
    if "{{" in text:
        raise NotFound(f"{source} has braces that Helm would read")
    # The comment in front of the first piece is about the file.
    text = HEAD.format(source=source) + text[text.index("\n# [inpick 1]") :]
    for path, place in MODULES.items():
        text = text.replace(path, place)
    text = once(r"^    +max_heap_size_bytes: 2147483648$", "      max_heap_size_bytes: {{ .maxHeapBytes }}", text)
    text = once(r"^  listeners:\n", PROBES, text)
    gateway = 'address: {socket_address: {address: "{{ .address }}", port_value: 8081, ipv4_compat: {{ contains ":" .address }}}}'
    text = once(r"address: \{socket_address: \{address: 127\.0\.0\.1, port_value: 10000\}\}", gateway, text)
    found = FILTER.findall(text)
    if len(found) != 1:
        raise NotFound(f"{len(found)} documents of the filter instead of one")
    text = FILTER.sub(lambda match: f"{match[1]}value: |\n{match[1]}  {{{{- .filter | nindent {len(match[1]) + 2} }}}}\n", text)
    return text


def pool(text):
    """The lines of the pool's cluster in a bootstrap."""
    start = text.index("  - name: pool-default\n")
    following = re.compile(r"^(?:  #|  - name: )", re.M).search(text, start + 1)
    return text[start : following.start() if following else len(text)]


def discovery(text):
    """How the pool's cluster of a bootstrap finds its endpoints."""
    found = re.search(r"^    type: EDS\n(?:    .*\n)*?(    eds_cluster_config:\n(?:      .*\n)+)", pool(text), re.M)
    if not found:
        raise NotFound("the pool's cluster has no eds_cluster_config")
    return found[1]


def with_discovery(text, own):
    """A bootstrap whose pool has listed endpoints, with those of a file in their place."""
    cluster = once(r"^    type: STATIC\n", "    type: EDS\n" + own, pool(text))
    cluster = once(r"^    load_assignment:\n(?:      .*\n)*", "", cluster)
    return text.replace(pool(text), cluster)
