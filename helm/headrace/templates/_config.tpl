{{/* The Redis that gateways share; empty when there is none. */}}
{{- define "headrace.redisUrl" -}}
{{- $set := dig "gateway" "sharing" "redis_url" "" .Values.gateway.config -}}
{{- if $set -}}
{{- $set -}}
{{- else if .Values.redis.url -}}
{{- .Values.redis.url -}}
{{- else if .Values.trial.redis.enabled -}}
redis://{{ include "headrace.fullname" . }}-redis:6379/0
{{- end -}}
{{- end -}}

{{/* The Secret with the API keys; empty when there is none. */}}
{{- define "headrace.keysSecret" -}}
{{- with .Values.gateway.keys -}}
{{- if .existingSecret -}}
{{- .existingSecret -}}
{{- else if .lines -}}
{{- include "headrace.fullname" $ }}-gateway-keys
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The gateway's settings file: what the chart knows, then what the values say. */}}
{{- define "headrace.gatewayConfig" -}}
{{- $gateway := dict "host" "0.0.0.0" -}}
{{- with include "headrace.redisUrl" . -}}
{{- $_ := set $gateway "sharing" (dict "redis_url" .) -}}
{{- end -}}
{{- if include "headrace.keysSecret" . -}}
{{- $_ := set $gateway "keys_file" "/etc/headrace-keys/keys" -}}
{{- end -}}
{{- $known := dict "gateway" $gateway -}}
{{- if not .Values.gateway.config.endpoints -}}
{{- $discovery := dict "kind" "kubernetes" -}}
{{- with .Values.watchNamespace -}}
{{- $_ := set $discovery "namespace" . -}}
{{- end -}}
{{- $_ := set $known "discovery" $discovery -}}
{{- end -}}
{{- mergeOverwrite $known (deepCopy .Values.gateway.config) | toYaml -}}
{{- end -}}

{{/* "Secret" where the settings file holds a secret, else "ConfigMap". */}}
{{- define "headrace.gatewayConfigKind" -}}
{{- if or (dig "gateway" "upstream" "key" "" .Values.gateway.config) (contains "@" (include "headrace.redisUrl" .)) -}}
Secret
{{- else -}}
ConfigMap
{{- end -}}
{{- end -}}

{{- define "headrace.controllerConfig" -}}
{{- $known := dict "image" (include "headrace.image" .) "pull_policy" .Values.image.pullPolicy "lease" (dict "name" (include "headrace.leaseName" .)) -}}
{{- with .Values.watchNamespace -}}
{{- $_ := set $known "namespace" . -}}
{{- end -}}
{{- mergeOverwrite $known (deepCopy .Values.controller.config) | toYaml -}}
{{- end -}}

{{/* Of each release its own: two in one namespace elect two leaders. */}}
{{- define "headrace.leaseName" -}}
{{- dig "lease" "name" (printf "%s-controller" (include "headrace.fullname" .)) .Values.controller.config -}}
{{- end -}}

{{- define "headrace.gatewayPort" -}}
{{- dig "gateway" "port" 8080 .Values.gateway.config | int -}}
{{- end -}}

{{/* Time for a gateway to end: until nobody sends to it, until its streams end, and 10 s to close. */}}
{{- define "headrace.gatewayGraceSeconds" -}}
{{- $drain := dig "gateway" "drain_s" 30 .Values.gateway.config | ceil | int -}}
{{- add $drain .Values.gateway.preStopSeconds 10 -}}
{{- end -}}

{{/* Settings that contradict each other, told before anything is installed. */}}
{{- define "headrace.check" -}}
{{- with .Values.gateway -}}
{{- $several := or (gt (int .replicas) 1) .autoscaling.enabled -}}
{{- if and $several (not (include "headrace.redisUrl" $)) (not .configFrom.secret) -}}
{{- fail "gateway: more than one replica needs a Redis that they share: set redis.url, or trial.redis.enabled to try it out" -}}
{{- end -}}
{{- if and .keys.existingSecret .keys.lines -}}
{{- fail "gateway.keys: give existingSecret or lines, not both" -}}
{{- end -}}
{{- if and .configFrom.secret (or .keys.existingSecret .keys.lines) -}}
{{- fail "gateway.keys: with configFrom.secret that file names its keys_file itself; mount it with extraVolumes" -}}
{{- end -}}
{{- if and .autoscaling.enabled (lt (int .autoscaling.maxReplicas) (int .autoscaling.minReplicas)) -}}
{{- fail "gateway.autoscaling: maxReplicas is below minReplicas" -}}
{{- end -}}
{{- end -}}
{{- if and .Values.redis.url .Values.trial.redis.enabled -}}
{{- fail "trial.redis: redis.url names one already" -}}
{{- end -}}
{{- if and .Values.trial.postgres.enabled (not .Values.trial.postgres.password) -}}
{{- fail "trial.postgres.password: required when trial.postgres is enabled" -}}
{{- end -}}
{{- end -}}
