#!/usr/bin/env bash
# Builds the pinned Kubernetes and etcd binaries from their Go modules into the cache.
# usage: build.sh [kube-apiserver] [kube-controller-manager] [etcd] [kubectl]   (no names: the first three)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
bin=${BESSEMER_BIN:-${XDG_CACHE_HOME:-$HOME/.cache}/bessemer/bin}
version=v1.37.1
mkdir -p "$bin"
command -v go >/dev/null || { echo "go is missing: install Go 1.26 or newer to build $*" >&2; exit 1; }

stamps="-s -w"
for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
  stamps+=" -X $package.gitVersion=$version -X $package.gitMajor=1 -X $package.gitMinor=37"
  stamps+=" -X $package.gitTreeState=clean -X $package.buildDate=1970-01-01T00:00:00Z"
done

[ $# -gt 0 ] || set -- etcd kube-apiserver kube-controller-manager
for name in "$@"; do
  target=$bin/$name
  [ "$name" = etcd ] && stamp=etcd-v3.6.16 || stamp=$version
  if [ -x "$target" ] && [ "$(cat "$target.version" 2>/dev/null)" = "$stamp" ]; then continue; fi
  case $name in
    etcd) folder=$here/etcd package=go.etcd.io/etcd/server/v3 flags="-s -w" ;;
    kube-apiserver | kube-controller-manager | kubectl)
      folder=$here/kubernetes package=k8s.io/kubernetes/cmd/$name flags=$stamps ;;
    *) echo "unknown binary $name: build.sh knows etcd, kube-apiserver, kube-controller-manager, kubectl" >&2; exit 1 ;;
  esac
  echo "building $name $stamp" >&2
  (cd "$folder" && CGO_ENABLED=0 GOFLAGS=-mod=readonly nice -n 10 go build -trimpath -ldflags "$flags" -o "$target.new" "$package")
  mv "$target.new" "$target"
  echo "$stamp" > "$target.version"
done
