#!/usr/bin/env bash
# Builds pinned tools from their Go modules into the cache, one after the other; go.mod beside each says the version.
# usage: build.sh [NAME...]   (no names: etcd, kube-apiserver, kube-controller-manager; `cluster`: all that `up` starts)
#        build.sh --missing [NAME...]   prints which of them would be built
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cache=${BESSEMER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/bessemer}
bin=${BESSEMER_BIN:-$cache/bin}
export GOCACHE=${GOCACHE:-$cache/go-build}
mkdir -p "$bin"

# name, folder of its go.mod, package ("." is our own main in that folder, one of .yaml a file of the module), module that gives
# the version
tools="
etcd                    etcd        go.etcd.io/etcd/server/v3                      go.etcd.io/etcd/server/v3
kube-apiserver          kubernetes  k8s.io/kubernetes/cmd/kube-apiserver           k8s.io/kubernetes
kube-controller-manager kubernetes  k8s.io/kubernetes/cmd/kube-controller-manager  k8s.io/kubernetes
kube-scheduler          kubernetes  k8s.io/kubernetes/cmd/kube-scheduler           k8s.io/kubernetes
kube-proxy              kubernetes  k8s.io/kubernetes/cmd/kube-proxy               k8s.io/kubernetes
kubelet                 kubernetes  k8s.io/kubernetes/cmd/kubelet                  k8s.io/kubernetes
kubectl                 kubernetes  k8s.io/kubernetes/cmd/kubectl                  k8s.io/kubernetes
helm                    helm        helm.sh/helm/v3/cmd/helm                       helm.sh/helm/v3
kubeconform             kubeconform github.com/yannh/kubeconform/cmd/kubeconform   github.com/yannh/kubeconform
schemas                 kubeconform .                                              github.com/yannh/kubeconform
gitops                  gitops      .                                              sigs.k8s.io/cli-utils
promtool                prometheus  github.com/prometheus/prometheus/cmd/promtool  github.com/prometheus/prometheus
runc                    runc        github.com/opencontainers/runc                 github.com/opencontainers/runc
containerd              containerd  github.com/containerd/containerd/v2/cmd/containerd              github.com/containerd/containerd/v2
containerd-shim-runc-v2 containerd  github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2 github.com/containerd/containerd/v2
ctr                     containerd  github.com/containerd/containerd/v2/cmd/ctr                     github.com/containerd/containerd/v2
cni/bridge              cni         github.com/containernetworking/plugins/plugins/main/bridge      github.com/containernetworking/plugins
cni/loopback            cni         github.com/containernetworking/plugins/plugins/main/loopback    github.com/containernetworking/plugins
cni/host-local          cni         github.com/containernetworking/plugins/plugins/ipam/host-local  github.com/containernetworking/plugins
cni/portmap             cni         github.com/containernetworking/plugins/plugins/meta/portmap     github.com/containernetworking/plugins
coredns                 coredns     github.com/coredns/coredns                     github.com/coredns/coredns
httproutes.crd.yaml     gateway     config/crd/standard/gateway.networking.k8s.io_httproutes.yaml       sigs.k8s.io/gateway-api
kustomize-controller    flux        github.com/fluxcd/kustomize-controller         github.com/fluxcd/kustomize-controller
kwok                    kwok        sigs.k8s.io/kwok/cmd/kwok                          sigs.k8s.io/kwok
versitygw               versitygw   github.com/versity/versitygw/cmd/versitygw     github.com/versity/versitygw
"
# In the order in which a cold build can be tried out soonest.
cluster="runc cni/bridge cni/loopback cni/host-local cni/portmap versitygw etcd containerd containerd-shim-runc-v2 ctr
  kube-apiserver kube-controller-manager kube-scheduler kubectl helm kubelet kube-proxy coredns"

missing=
if [ "${1:-}" = --missing ]; then missing=1; shift; fi
[ $# -gt 0 ] || set -- etcd kube-apiserver kube-controller-manager
# shellcheck disable=SC2086
[ "$*" != cluster ] || set -- $cluster
# Two builds at once would write the same files; whoever has all it needs does not wait.
if [ -z "$missing" ] && [ -n "$("$0" --missing "$@")" ]; then exec 9> "$bin/.build.lock"; flock 9; fi
for name in "$@"; do
  read -r folder package module < <(awk -v name="$name" '$1 == name { print $2, $3, $4 }' <<<"$tools") || {
    echo "unknown binary $name; build.sh knows: $(awk '{ printf "%s ", $1 }' <<<"$tools")" >&2; exit 1; }
  version=$(awk -v module="$module" '$1 == module { print $2; exit }' "$here/$folder/go.mod")
  stamp=$version
  [ "$name" = etcd ] && stamp=etcd-$version
  [ "$package" = . ] && stamp+=-$(cat "$here/$folder"/*.go | sha256sum | cut -c 1-12)
  target=$bin/$name
  if [ -e "$target" ] && [ "$(cat "$target.version" 2>/dev/null)" = "$stamp" ]; then continue; fi
  if [ -n "$missing" ]; then echo "$name"; continue; fi
  command -v go >/dev/null || { echo "go is missing: install Go 1.26 or newer to build $name" >&2; exit 1; }
  flags="-s -w" tags="" cgo=0
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
  case $name in
    kubelet) cgo=1 ;;
    runc)
      cgo=1 tags=seccomp
      pkg-config --exists libseccomp || { echo "libseccomp's headers are missing: apt-get install libseccomp-dev pkg-config" >&2; exit 78; } ;;
    containerd) tags=no_btrfs; flags+=" -X github.com/containerd/containerd/v2/version.Version=$version" ;;
  esac
  echo "building $name $stamp" >&2
  mkdir -p "$(dirname "$target")"
  started=$SECONDS
  sources() { (cd "$here/$folder" && go mod download "$module" && go list -mod=readonly -m -f '{{.Dir}}' "$module"); }
  case $package in
    *.yaml) install -m 644 "$(sources)/$package" "$target.new" ;;
    *) (cd "$here/$folder" && CGO_ENABLED=$cgo GOFLAGS="-mod=readonly ${GOFLAGS:-}" nice -n "${BESSEMER_NICE:-10}" \
      go build -trimpath -tags "$tags" -ldflags "$flags" -o "$target.new" "$package") ;;
  esac
  if [ "$name" = kustomize-controller ]; then
    modules=$(sources)
    install -m 644 "$modules"/config/crd/bases/*.yaml "$target.crd.yaml"
  fi
  if [ "$name" = kwok ]; then
    # What it does with nodes and pods; without its stage that ends the pods of Jobs.
    stages=$(sources)/kustomize/stage
    tail -qn +1 "$stages"/node/fast/node-initialize.yaml "$stages"/pod/fast/pod-{ready,delete}.yaml | sed 's/^apiVersion:/---\n&/' > "$target.stages.yaml"
  fi
  mv "$target.new" "$target"
  echo "$stamp" > "$target.version"
  echo "built $name in $((SECONDS - started)) s, $(($(stat -c %s "$target") / 1000)) kB" >&2
done
