{{/* What is wrong with the values beyond their schema. */}}
{{- define "inpick.validate" -}}
{{- $router := .Values.router -}}
{{- if not $router.modelServers.matchLabels -}}
{{- fail "router.modelServers.matchLabels is required: the labels of the model servers' pods" -}}
{{- end -}}
{{- if not $router.epp.image.registry -}}
{{- fail "router.epp.image.registry is required: where you keep the images that deploy/sidecar.Containerfile and deploy/gateway.Containerfile build" -}}
{{- end -}}
{{- if contains "endpoint-picker" $router.epp.image.repository -}}
{{- fail (printf "router.epp.image.repository: %s is another program: this chart runs inpick's own image" $router.epp.image.repository) -}}
{{- end -}}
{{- if and $router.inferenceObjectives (not $router.inferencePool.create) -}}
{{- fail "router.inferenceObjectives need router.inferencePool.create: they name their pool" -}}
{{- end -}}
{{- if and $router.epp.pluginsConfig $router.epp.pluginsCustomConfig -}}
{{- fail "router.epp.pluginsConfig and pluginsCustomConfig exclude each other: each is an EndpointPickerConfig" -}}
{{- end -}}
{{- /* A user who names no file may have none. */ -}}
{{- $named := or $router.epp.pluginsCustomConfig (ne $router.epp.pluginsConfigFile "default-plugins.yaml") -}}
{{- if and $named (not (include "inpick.pickerConfig" .)) -}}
{{- fail (printf "router.epp.pluginsConfigFile: pluginsCustomConfig has no %s" $router.epp.pluginsConfigFile) -}}
{{- end -}}
{{- if include "inpick.pickerConfig" . -}}
{{- if .Values.inpick.filter -}}
{{- fail "inpick.filter and an EndpointPickerConfig exclude each other: `inpick config convert` prints one as the other" -}}
{{- end -}}
{{- if or (eq .Values.inpick.shape "embedded") (kindIs "bool" $router.proxy.failOpen) -}}
{{- fail "an EndpointPickerConfig has no place for what inpick.shape=embedded and router.proxy.failOpen set: `inpick config convert` prints it as inpick.filter" -}}
{{- end -}}
{{- if and (not $router.inferencePool.create) (ne $router.inferencePool.failureMode "FailOpen") -}}
{{- fail (printf "an EndpointPickerConfig has no place for router.inferencePool.failureMode=%s, which without router.inferencePool.create no InferencePool says: `inpick config convert` prints it as inpick.filter" $router.inferencePool.failureMode) -}}
{{- end -}}
{{- end -}}
{{- if and (eq .Values.inpick.shape "embedded") (get ($router.epp.flags | default dict) "threads") -}}
{{- fail "router.epp.flags.threads: the sidecar has one thread with inpick.shape=embedded" -}}
{{- end -}}
{{- if lt (int .Values.inpick.drain.most) (int .Values.inpick.drain.least) -}}
{{- fail "inpick.drain.most must not be less than inpick.drain.least" -}}
{{- end -}}
{{- end -}}

{{/*
The sidecar's flags, as members of an object: lists for those that are repeated. Of the Endpoint Picker's flags those that mean the same
are taken under its names.
*/}}
{{- define "inpick.flags" -}}
{{- $pool := include "inpick.pool" . -}}
{{- $servers := .Values.router.modelServers -}}
{{- /* Both in the pod's own namespace. */ -}}
{{- $source := printf "inferencepool:%s" .Release.Name -}}
{{- $options := list (printf "%s=eds-file=/run/inpick/eds/default.json" $pool) (printf "%s=eds-cluster=pool-default" $pool) -}}
{{- if not .Values.router.inferencePool.create -}}
{{- $labels := list -}}
{{- range $key, $value := $servers.matchLabels -}}{{- $labels = append $labels (printf "%s=%s" $key $value) -}}{{- end -}}
{{- $ports := list -}}
{{- range $servers.targetPorts -}}{{- $ports = append $ports (toString (int .number)) -}}{{- end -}}
{{- $source = printf "pods:%s:%s" (join "," $labels) (join "," $ports) -}}
{{- end -}}
{{- with $servers.type -}}{{- $options = append $options (printf "%s=engine=%s" $pool .) -}}{{- end -}}
{{- $metrics := include "inpick.listen" (dict "address" .Values.inpick.bindAddress "port" 9090) -}}
{{- $flags := dict "pool" (list (printf "%s=%s" $pool $source)) "pool-option" $options "listen" "127.0.0.1:9091" "metrics-listen" $metrics "metrics-endpoint-auth" .Values.router.monitoring.prometheus.auth.enabled -}}
{{- if .Values.inpick.metricsTLS.secretName -}}
{{- $_ := set $flags "metrics-tls-cert-file" "/etc/inpick/metrics-tls/tls.crt" -}}
{{- $_ := set $flags "metrics-tls-key-file" "/etc/inpick/metrics-tls/tls.key" -}}
{{- end -}}
{{- $same := dict "refresh-metrics-interval" "poll-interval" "metrics-staleness-threshold" "staleness" -}}
{{- range $name, $value := omit (.Values.router.epp.flags | default dict) "v" -}}
{{- if not (kindIs "invalid" $value) -}}
{{- if kindIs "bool" $value -}}{{- $value = ternary "on" "off" $value -}}{{- end -}}
{{- $_ := set $flags (get $same $name | default $name) (include "inpick.scalar" $value) -}}
{{- end -}}
{{- end -}}
{{ toJson $flags }}
{{- end -}}

{{/* The filter's document. */}}
{{- define "inpick.filter" -}}
{{- $config := include "inpick.pickerConfig" . -}}
{{- if $config -}}
{{ $config }}
{{- else -}}
{{- $filter := dict "pool" (include "inpick.pool" .) "access_log" true -}}
{{- if eq .Values.inpick.shape "sidecar" -}}
{{- $_ := set $filter "served_endpoint" "header" -}}
{{- else -}}
{{- $_ := set $filter "sidecar" (dict "embedded" (include "inpick.flags" . | fromJson)) -}}
{{- end -}}
{{- $open := .Values.router.proxy.failOpen -}}
{{- if kindIs "bool" $open -}}
{{- $_ := set $filter "no_endpoint" (ternary "fail_open" "fail_closed" $open) -}}
{{- else if not .Values.router.inferencePool.create -}}
{{- $_ := set $filter "no_endpoint" (ternary "fail_open" "fail_closed" (eq .Values.router.inferencePool.failureMode "FailOpen")) -}}
{{- end -}}
{{ toJson (mergeOverwrite $filter (.Values.inpick.filter | default dict | deepCopy)) }}
{{- end -}}
{{- end -}}

{{/* Envoy's bootstrap. */}}
{{- define "inpick.bootstrap" -}}
{{- $file := ternary "files/envoy-sidecar.yaml" "files/envoy-embedded.yaml" (eq .Values.inpick.shape "sidecar") -}}
{{- $_ := include "inpick.validate" . -}}
{{- tpl (.Files.Get $file) (dict "address" .Values.inpick.bindAddress "maxHeapBytes" (include "inpick.maxHeapBytes" .) "filter" (include "inpick.filter" .) "Template" .Template) -}}
{{- end -}}
