{{/* Names, labels and the image of the chart. */}}
{{- define "joulebench.fullname" -}}
{{- if contains "joulebench" .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}{{ else }}{{ printf "%s-joulebench" .Release.Name | trunc 50 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "joulebench.labels" -}}
app.kubernetes.io/name: joulebench
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* Labels that select the pods of a part: (dict "root" $ "part" "exporter"). */}}
{{- define "joulebench.selector" -}}
app.kubernetes.io/name: joulebench
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .part }}
{{- end }}

{{- define "joulebench.image" -}}
{{- $repository := required "image.repository: name the image that you built from exporter/Dockerfile, such as registry.example/joulebench" .Values.image.repository -}}
{{- if .Values.image.digest }}{{ $repository }}@{{ .Values.image.digest }}{{ else }}{{ $repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}

{{- define "joulebench.serviceAccountName" -}}
{{ .Values.serviceAccount.name | default (include "joulebench.fullname" .) }}
{{- end }}

{{/* What no container of the chart may do. */}}
{{- define "joulebench.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- /* A probe of the kubelet has no password and trusts no authority of ours: with a web configuration it tests the port alone. */ -}}
{{- define "joulebench.exporterProbe" -}}
{{- if .Values.exporter.webConfigSecret -}}
tcpSocket:
  port: metrics
{{- else -}}
httpGet:
  path: /healthz
  port: metrics
{{- end }}
{{- end }}
