#!/usr/bin/env bash
# Builds pinned tools from their Go modules into the cache, one after the other; go.mod beside each says the version.
# usage: build.sh [NAME...]   (no names: etcd, kube-apiserver, kube-controller-manager)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
bin=${BESSEMER_BIN:-${XDG_CACHE_HOME:-$HOME/.cache}/bessemer/bin}
mkdir -p "$bin"

# name, folder of its go.mod, package ("." is our own main in that folder), module that gives the version
tools="
etcd                    etcd        go.etcd.io/etcd/server/v3                      go.etcd.io/etcd/server/v3
kube-apiserver          kubernetes  k8s.io/kubernetes/cmd/kube-apiserver           k8s.io/kubernetes
kube-controller-manager kubernetes  k8s.io/kubernetes/cmd/kube-controller-manager  k8s.io/kubernetes
kubectl                 kubernetes  k8s.io/kubernetes/cmd/kubectl                  k8s.io/kubernetes
helm                    helm        helm.sh/helm/v3/cmd/helm                       helm.sh/helm/v3
kubeconform             kubeconform github.com/yannh/kubeconform/cmd/kubeconform   github.com/yannh/kubeconform
schemas                 kubeconform .                                              github.com/yannh/kubeconform
gitops                  gitops      .                                              sigs.k8s.io/cli-utils
promtool                prometheus  github.com/prometheus/prometheus/cmd/promtool  github.com/prometheus/prometheus
versitygw               versitygw   github.com/versity/versitygw/cmd/versitygw     github.com/versity/versitygw
"

[ $# -gt 0 ] || set -- etcd kube-apiserver kube-controller-manager
for name in "$@"; do
  read -r folder package module < <(awk -v name="$name" '$1 == name { print $2, $3, $4 }' <<<"$tools") || {
    echo "unknown binary $name; build.sh knows: $(awk '{ printf "%s ", $1 }' <<<"$tools")" >&2; exit 1; }
  version=$(awk -v module="$module" '$1 == module { print $2; exit }' "$here/$folder/go.mod")
  stamp=$version
  [ "$name" = etcd ] && stamp=etcd-$version
  [ "$package" = . ] && stamp+=-$(cat "$here/$folder"/*.go | sha256sum | cut -c 1-12)
  target=$bin/$name
  if [ -x "$target" ] && [ "$(cat "$target.version" 2>/dev/null)" = "$stamp" ]; then continue; fi
  command -v go >/dev/null || { echo "go is missing: install Go 1.26 or newer to build $name" >&2; exit 1; }
  flags="-s -w"
  if [ "$folder" = kubernetes ]; then
    minor=${version#v1.}
    for stamped in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
      flags+=" -X $stamped.gitVersion=$version -X $stamped.gitMajor=1 -X $stamped.gitMinor=${minor%%.*}"
      flags+=" -X $stamped.gitTreeState=clean -X $stamped.buildDate=1970-01-01T00:00:00Z"
    done
  fi
  if [ "$name" = helm ]; then
    # Without these a chart's kubeVersion is compared with Kubernetes 1.20.
    minor=$(awk '$1 == "k8s.io/client-go" { split($2, part, "."); print part[2]; exit }' "$here/helm/go.mod")
    flags+=" -X helm.sh/helm/v3/internal/version.version=$version"
    for stamped in helm.sh/helm/v3/pkg/chartutil helm.sh/helm/v3/pkg/lint/rules; do
      flags+=" -X $stamped.k8sVersionMajor=1 -X $stamped.k8sVersionMinor=$minor"
    done
  fi
  echo "building $name $stamp" >&2
  (cd "$here/$folder" && CGO_ENABLED=0 GOFLAGS=-mod=readonly nice -n 10 go build -trimpath -ldflags "$flags" -o "$target.new" "$package")
  mv "$target.new" "$target"
  echo "$stamp" > "$target.version"
done
