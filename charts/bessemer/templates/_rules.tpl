{{/* Written by `make generate` from operator/core/src/access.rs; change it there. */}}
{{- define "bessemer.rules.watched" -}}
# the objects themselves; read live where they cannot be decoded, before a finalizer changes and before artefacts go
- apiGroups: ["bessemer.dev"]
  resources: ["datasets", "deployments", "evaluations", "finetunes", "pretrainjobs"]
  verbs: ["get", "list", "watch"]
# the finalizer in metadata; spec is never written
- apiGroups: ["bessemer.dev"]
  resources: ["datasets", "evaluations", "finetunes", "pretrainjobs"]
  verbs: ["patch"]
# status
- apiGroups: ["bessemer.dev"]
  resources: ["datasets/status", "deployments/status", "evaluations/status", "finetunes/status", "pretrainjobs/status"]
  verbs: ["patch"]
# runs; patch suspends and resumes
- apiGroups: ["batch"]
  resources: ["jobs"]
  verbs: ["get", "list", "watch", "create", "patch", "delete"]
# servers and routers
- apiGroups: ["apps"]
  resources: ["deployments"]
  verbs: ["get", "list", "watch", "create", "patch", "delete"]
# run configurations, traffic weights, names of servers and ranks
- apiGroups: [""]
  resources: ["configmaps", "services"]
  verbs: ["get", "list", "watch", "create", "patch", "delete"]
# the division of traffic, said to the Gateways of spec.route
- apiGroups: ["gateway.networking.k8s.io"]
  resources: ["httproutes"]
  verbs: ["get", "create", "patch", "delete"]
# why a run ended or waits; who may report progress; patch annotates a router's pod, so that its kubelet reads the configuration again
- apiGroups: [""]
  resources: ["pods"]
  verbs: ["list", "watch", "patch"]
# why a Job has no pod: only the Event of its controller says it
- apiGroups: [""]
  resources: ["events"]
  verbs: ["list"]
# Events for people; repeated ones are counted
- apiGroups: ["events.k8s.io"]
  resources: ["events"]
  verbs: ["create", "get", "update"]
{{- with .Values.rbac.apiKeySecrets }}
# the check of a served model that asks for an API key
- apiGroups: [""]
  resources: ["secrets"]
  verbs: ["get"]
  resourceNames: {{ toJson . }}
{{- end }}
{{- end }}
{{- define "bessemer.rules.own" -}}
# the election; a creation cannot be limited to a name
- apiGroups: ["coordination.k8s.io"]
  resources: ["leases"]
  verbs: ["create"]
# the election
- apiGroups: ["coordination.k8s.io"]
  resources: ["leases"]
  verbs: ["get", "update"]
  resourceNames: ["bessemer-operator"]
{{- end }}
