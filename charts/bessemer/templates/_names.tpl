{{- define "bessemer.name" -}}
{{- $name := .Release.Name }}
{{- if not (contains "bessemer" $name) }}{{ $name = printf "%s-bessemer" $name }}{{ end }}
{{- $name | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- define "bessemer.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}
{{- .Values.serviceAccount.name | default (include "bessemer.name" .) }}
{{- else }}
{{- required "serviceAccount.create is false: give the name of an existing one in serviceAccount.name" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "bessemer.selector" -}}
app.kubernetes.io/name: bessemer
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{- define "bessemer.labels" -}}
{{ include "bessemer.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: bessemer
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "bessemer.metadata" -}}
name: {{ include "bessemer.name" . }}
namespace: {{ .Release.Namespace }}
labels:
  {{- include "bessemer.labels" . | nindent 2 }}
{{- end }}

{{- define "bessemer.image" -}}
{{- $image := .image }}
{{- if $image.digest }}{{ printf "%s@%s" $image.repository $image.digest }}
{{- else }}{{ printf "%s:%s" $image.repository ($image.tag | default .root.Chart.AppVersion) }}
{{- end }}
{{- end }}

{{- /* Port of a URL, as its scheme says where it names none. */ -}}
{{- define "bessemer.port" -}}
{{- $url := urlParse . }}
{{- $host := $url.host }}
{{- if regexMatch ":[0-9]+$" $host }}{{ regexFind "[0-9]+$" $host }}
{{- else if eq $url.scheme "http" }}80{{ else }}443{{ end }}
{{- end }}
