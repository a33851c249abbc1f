# Sourced by the scripts beside it: where the cluster's binaries and state lie, and whether it runs.
cache=${BESSEMER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/bessemer}
bin=${BESSEMER_BIN:-$cache/bin}
state=${BESSEMER_CLUSTER:-$cache/cluster}
# Name of the cluster's folder in each cgroup hierarchy.
group=bessemer-cluster-$(printf %s "$state" | cksum | cut -d ' ' -f 1)

die() { echo "$(basename "$0"): $1" >&2; exit "${2:-1}"; }

# The process that holds the namespaces, by what it runs: so one is found whose starter was killed.
holder() { pgrep -o -f -x "bash [^ ]*/node $state"; }
