# Sourced by the scripts beside it: where the cluster's binaries and state lie, and whether it runs.
cache=${BESSEMER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/bessemer}
bin=${BESSEMER_BIN:-$cache/bin}
state=${BESSEMER_CLUSTER:-$cache/cluster}
# Name of the cluster's folder in each cgroup hierarchy.
group=bessemer-cluster-$(printf %s "$state" | cksum | cut -d ' ' -f 1)

die() { echo "$(basename "$0"): $1" >&2; exit "${2:-1}"; }

# The process that holds a node's namespaces, the first one's or NAME's, by what it runs: so one is found whose starter was killed.
holder() { pgrep -o -f -x "bash [^ ]*/node $state${1:+ $1}"; } # [NAME]
# Starts a node in namespaces of its own: with its first process all of it ends. False if it does not come up.
launch() { # [NAME]
  local folder=$state${1:+/$1} parent
  mkdir -p "$folder"
  BESSEMER_CACHE=$cache BESSEMER_BIN=$bin BESSEMER_CLUSTER=$state \
    setsid unshare --net --mount --ipc --pid --fork --kill-child --mount-proc "$here/node" "$state" "$@" \
    </dev/null >"$folder/node.log" 2>&1 &
  parent=$!
  for _ in $(seq 1200); do
    if [ -f "$folder/ready" ]; then return; fi
    kill -0 "$parent" 2>/dev/null || break
    sleep 0.1
  done
  tail -n 20 "$folder/node.log" >&2
  return 1
}
