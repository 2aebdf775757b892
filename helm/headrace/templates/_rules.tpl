{{/* What the gateway does with the API: it looks at model pods, at adapters and what they are for. */}}
{{- define "headrace.gatewayRules" -}}
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch]
- apiGroups: [headrace.dev]
  resources: [loraadapters, modelservices]
  verbs: [get, list, watch]
{{- end -}}

{{/* What the controller does with the API in the namespaces it serves. */}}
{{- define "headrace.controllerRules" -}}
# Its own kinds: read, and finalizers put on and taken off. Never made or deleted by it.
- apiGroups: [headrace.dev]
  resources: [modelservices, loraadapters]
  verbs: [get, list, watch, patch]
- apiGroups: [headrace.dev]
  resources: [modelservices/status, loraadapters/status]
  verbs: [patch]
# So that what it makes can name them as owners that block deletion (OwnerReferencesPermissionEnforcement).
- apiGroups: [headrace.dev]
  resources: [modelservices/finalizers, loraadapters/finalizers]
  verbs: [update]
# Replicas, and the templates of revisions to return to: made and removed, never changed.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, create, delete]
- apiGroups: [ray.io]
  resources: [rayclusters]
  verbs: [get, list, watch, create, delete]
- apiGroups: [apps]
  resources: [controllerrevisions]
  verbs: [get, list, watch, create, delete]
# One of each per model, by server-side apply; they go with their owner.
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch]
- apiGroups: [inference.networking.k8s.io]
  resources: [inferencepools]
  verbs: [get, list, watch, create, patch]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end -}}
