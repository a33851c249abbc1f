#!/usr/bin/env bash
# Prints the path of a kubectl: the one on PATH, else the one in the cache, else one built from its Go module.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
bin=${BESSEMER_BIN:-${BESSEMER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/bessemer}/bin}
if [ -z "${KUBECTL_FROM_MODULE:-}" ] && command -v kubectl; then exit 0; fi
if [ ! -x "$bin/kubectl" ]; then
  command -v go >/dev/null || { echo "no kubectl on PATH and no Go to build one" >&2; exit 1; }
  "$here/cluster/build.sh" kubectl
fi
echo "$bin/kubectl"
