# Sourced by `test` and `chaos`: counted checks, and what a chain in a namespace of the cluster needs.
# shellcheck shell=bash disable=SC2034,SC2154  # here, cache, work: of those who source it
root=$(cd "$here/../.." && pwd)
binaries=${1:-${CARGO_TARGET_DIR:-$cache/target}/release}
system=bessemer-system
account=system:serviceaccount:$system:bessemer
kinds=datasets,pretrainjobs,finetunes,evaluations,deployments.bessemer.dev
chart=(--namespace "$system" --set storage.bucket=models --set storage.endpoint=http://s3.storage.svc:9000
  --set storage.secretName=bessemer-storage)

passed=0 failed=0
fails() { ! "$@"; }
check() { # name command...
  local name=$1 code started=$SECONDS; shift
  # Not within `if`: there bash would not stop a function at its first failure.
  set +e; (set -e; "$@") > "$work/out" 2>&1; code=$?; set -e
  if [ $code = 0 ]; then passed=$((passed + 1)); echo "test $name ... ok ($((SECONDS - started)) s)"
  else failed=$((failed + 1)); echo "test $name ... FAILED"; tail -n 25 "$work/out"; fi
}
within() { # seconds command...
  local end=$((SECONDS + $1)); shift
  until "$@"; do [ $SECONDS -lt $end ] || return 1; sleep 0.5; done
}

namespace() {
  kubectl create namespace "$1"
  kubectl label namespace "$1" pod-security.kubernetes.io/enforce=restricted
  kubectl -n "$1" create secret generic bessemer-storage "--from-literal=AWS_ACCESS_KEY_ID=$AWS_ACCESS_KEY_ID" "--from-literal=AWS_SECRET_ACCESS_KEY=$AWS_SECRET_ACCESS_KEY"
}
charts_install() {
  namespace "$system"
  helm install bessemer-crds "$root/charts/bessemer-crds"
  kubectl wait crd --for=condition=Established --timeout=30s datasets.bessemer.dev deployments.bessemer.dev
  helm install bessemer "$root/charts/bessemer" "${chart[@]}" --wait --timeout 120s
  [ "$(kubectl -n "$system" get deployment bessemer -o 'jsonpath={.status.readyReplicas}')" = 2 ]
}
sources_lie_in_the_store() {
  python3 "$here/text.py" "$work/text"
  "$here/s3" PUT models
  "$here/s3" PUT fixture
  for file in text/docs.jsonl pairs/items.jsonl; do
    "$here/s3" PUT "fixture/$file" "$work/text/$file"
    "$here/s3" GET "fixture/$file" | cmp - "$work/text/$file"
  done
}
# Long enough to be interrupted.
chain() { sed 's#file://@DATA@#s3://fixture#; s#steps: 20,#steps: 200,#' "$root/e2e/tests/local/chain.yaml"; }
at_work() { # NAMESPACE KIND: whether a Job of such an object has a pod
  kubectl -n "$1" get jobs -o json | jq -e --arg kind "$2" \
    '[.items[] | select(.metadata.ownerReferences[0].kind == $kind and (.status.active // 0) > 0)] | length > 0' >/dev/null
}
leader() { kubectl -n "$system" get lease bessemer-operator -o 'jsonpath={.spec.holderIdentity}'; }
served_at() { kubectl -n "$1" get deployments.bessemer.dev "$2" -o 'jsonpath={.status.url}'; } # NAMESPACE NAME
ask() { # NAMESPACE NAME [curl's arguments]: the code of a completion's answer
  curl -sS -o "$work/answer" -w '%{http_code}' -H 'content-type: application/json' "${@:3}" \
    -d "{\"model\": \"$2\", \"max_tokens\": 4, \"prompt\": \"Say number\"}" "$(served_at "$1" "$2")/v1/completions"
}
ready() { kubectl -n "$1" wait --for=condition=Ready --timeout="$2" "$kinds" --all; }
tell() { # what a failed chain says
  kubectl -n "$1" get "$kinds"
  kubectl -n "$1" get pods -o wide
  kubectl -n "$1" get events --sort-by=.lastTimestamp | tail -n 15
  return 1
}
says() { # NAMESPACE REASON PART-OF-MESSAGE [OBJECT [STATUS]]: of the Ready condition, within 90 s
  told() { kubectl -n "$1" get "${4:-dataset/docs}" -o json | jq -r '.status.conditions[] | select(.type == "Ready") | .status + " " + .reason + ": " + .message'; }
  right() { told "$@" | grep -E "^${5:-False} $2: " | grep -F "$3"; }
  if ! within 90 right "$@"; then told "$@"; tell "$1"; fi
}
change_definition() { # JSON-PATCH of the kind Deployment's, until `restore_definition`
  kubectl get crd deployments.bessemer.dev -o json | jq 'del(.metadata.managedFields, .metadata.resourceVersion)' > "$work/crd.json"
  kubectl patch crd deployments.bessemer.dev --type json -p "$1"
}
restore_definition() { kubectl replace -f "$work/crd.json"; }
artefacts() { kubectl -n "$1" get "$kinds" -o json | python3 "$here/artefact.py" "$here/s3" | sort; } # NAMESPACE: verified, one line per object

# From outside: the cluster with our images, and PROGRAM with its checks within; KEEP=1 leaves it up.
on_a_cluster() { # PROGRAM
  work=$(mktemp -d)
  trap 'rm -rf "$work"; [ "${KEEP:-}" ] || "$here/down" --quiet' EXIT
  check cluster_comes_up "$here/up"
  check images_are_loaded "$here/load" "$binaries"
  WORK=$work BESSEMER_CACHE=$cache "$here/enter" "$1" "$binaries"
  local inner_passed inner_failed
  read -r inner_passed inner_failed < "$work/inside"
  passed=$((passed + inner_passed)) failed=$((failed + inner_failed))
}
gone() {
  "$here/down"
  fails holder
  fails pgrep -f -- "$state"
  [ ! -e "$state" ]
  [ -z "$(find /sys/fs/cgroup -maxdepth 2 -name "$group")" ]
  fails grep -F "$state" /proc/mounts
}
finish() {
  echo "test result: $([ $failed = 0 ] && echo ok || echo FAILED). $passed passed; $failed failed;"
  [ "$failed" = 0 ]
}
