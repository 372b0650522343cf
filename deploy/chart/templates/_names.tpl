{{/* Name of the objects, as in llm-d's chart. A release's name may have dots and begin with a digit, that of a Service may not. */}}
{{- define "inpick.name" -}}
{{- $name := .Release.Name | lower | replace "." "-" | trunc 40 | trimSuffix "-" -}}
{{- if regexMatch "^[0-9]" $name -}}inpick-{{- end -}}
{{ $name }}-epp
{{- end -}}

{{/* Name of what has no namespace. */}}
{{- define "inpick.clusterName" -}}
{{ printf "%s-%s-epp" (.Release.Name | lower | trunc 40) (.Release.Namespace | trunc 40) }}
{{- end -}}

{{- define "inpick.selectorLabels" -}}
app.kubernetes.io/name: {{ include "inpick.name" . }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "inpick.labels" -}}
{{ include "inpick.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/component: gateway
app.kubernetes.io/part-of: inpick
app.kubernetes.io/managed-by: {{ .Release.Service | quote }}
{{- end -}}

{{/* A number or a text as it was written. Helm reads the numbers of a file as floats, of which a million is printed as 1e+06. */}}
{{- define "inpick.scalar" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) -}}{{ int64 . }}{{- else -}}{{ . }}{{- end -}}
{{- end -}}

{{/* Whether an EndpointPickerConfig is given: its text, or nothing. */}}
{{- define "inpick.pickerConfig" -}}
{{- $epp := .Values.router.epp -}}
{{- $named := get ($epp.pluginsCustomConfig | default dict) $epp.pluginsConfigFile | trim -}}
{{- if $named -}}
{{ $named }}
{{- else if $epp.pluginsConfig -}}
{{ toYaml $epp.pluginsConfig }}
{{- end -}}
{{- end -}}

{{/* The pool's name in the filter, the sidecar and the metrics. An EndpointPickerConfig cannot name one. */}}
{{- define "inpick.pool" -}}
{{- if include "inpick.pickerConfig" . -}}default{{- else -}}{{ .Release.Name }}{{- end -}}
{{- end -}}

{{- define "inpick.sidecarImage" -}}
{{- $image := .Values.router.epp.image -}}
{{ $image.registry }}/{{ $image.repository }}:{{ $image.tag | default .Chart.AppVersion }}
{{- end -}}

{{- define "inpick.gatewayImage" -}}
{{- $image := .Values.router.epp.image -}}
{{ .Values.router.proxy.image | default (printf "%s/inpick-gateway:%s" $image.registry ($image.tag | default .Chart.AppVersion)) }}
{{- end -}}

{{/* An address and a port in one text. */}}
{{- define "inpick.listen" -}}
{{- if contains ":" .address -}}[{{ .address }}]:{{ .port }}{{- else -}}{{ .address }}:{{ .port }}{{- end -}}
{{- end -}}

{{/* Bytes of a quantity of memory. */}}
{{- define "inpick.bytes" -}}
{{- $units := dict "" 1 "k" 1000 "M" 1000000 "G" 1000000000 "T" 1000000000000 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 -}}
{{- $text := include "inpick.scalar" . -}}
{{- if not (regexMatch "^[0-9]+(k|M|G|T|Ki|Mi|Gi|Ti)?$" $text) -}}
{{- fail (printf "router.proxy.resources.limits.memory: %q: expected a whole number of bytes with k, M, G, T, Ki, Mi, Gi, Ti or nothing" $text) -}}
{{- end -}}
{{ mul (regexFind "^[0-9]+" $text | int64) (index $units (regexFind "[a-zA-Z]*$" $text)) }}
{{- end -}}

{{/* The heap at which Envoy refuses requests: 512 MiB below the container's limit. */}}
{{- define "inpick.maxHeapBytes" -}}
{{- $limits := get (.Values.router.proxy.resources | default dict) "limits" | default dict -}}
{{- if $limits.memory -}}
{{- $heap := sub (include "inpick.bytes" $limits.memory | int64) 536870912 -}}
{{- if lt $heap 268435456 -}}
{{- fail (printf "router.proxy.resources.limits.memory: %s is too little: Envoy needs 768Mi" (include "inpick.scalar" $limits.memory)) -}}
{{- end -}}
{{ $heap }}
{{- else -}}
2147483648
{{- end -}}
{{- end -}}
