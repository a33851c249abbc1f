# Sourced by `test`: the chain as Flux's own kustomize-controller applies it, from an artefact that a plain HTTP server offers.
# shellcheck shell=bash disable=SC2154  # bin, here, kinds, state, work: of `test`

# The controller of Flux's sources does not build from its module: of its kinds one is used, and their definitions are open.
source_kind() { # KIND PLURAL
  cat <<CRD
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: $2.source.toolkit.fluxcd.io}
spec:
  group: source.toolkit.fluxcd.io
  scope: Namespaced
  names: {kind: $1, plural: $2}
  versions:
    - name: v1
      served: true
      storage: true
      subresources: {status: {}}
      schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
CRD
}
flux_starts() {
  kubectl apply --server-side -f "$bin/kustomize-controller.crd.yaml"
  { source_kind ExternalArtifact externalartifacts; source_kind GitRepository gitrepositories
    source_kind OCIRepository ocirepositories; source_kind Bucket buckets; } | kubectl apply --server-side -f -
  kubectl wait crd --for=condition=Established --timeout=30s kustomizations.kustomize.toolkit.fluxcd.io externalartifacts.source.toolkit.fluxcd.io
  mkdir -p "$work/flux/tmp"
  python3 -m http.server --bind 10.99.0.1 --directory "$work/flux" 9790 > "$state/log/flux-source.log" 2>&1 &
  TMPDIR=$work/flux/tmp RUNTIME_NAMESPACE=flux kustomize-controller --watch-all-namespaces --feature-gates=ExternalArtifact=true \
    --metrics-addr 127.0.0.1:9791 --health-addr 127.0.0.1:9792 --requeue-dependency=5s > "$state/log/kustomize-controller.log" 2>&1 &
  namespace flux
  kubectl -n flux apply -f - <<'FLUX'
apiVersion: source.toolkit.fluxcd.io/v1
kind: ExternalArtifact
metadata: {name: chain}
spec: {}
---
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: chain}
spec:
  sourceRef: {kind: ExternalArtifact, name: chain}
  path: ./
  targetNamespace: flux
  prune: true
  wait: true
  interval: 1m
  retryInterval: 5s
  timeout: 5m
FLUX
}
# What a source controller would do with a new commit. The manifests come from standard input.
publish() { # REVISION
  local digest
  mkdir -p "$work/flux/$1"
  cat > "$work/flux/$1/chain.yaml"
  printf 'resources: [chain.yaml]\n' > "$work/flux/$1/kustomization.yaml"
  tar -C "$work/flux/$1" -czf "$work/flux/$1.tar.gz" chain.yaml kustomization.yaml
  digest=$(sha256sum "$work/flux/$1.tar.gz" | cut -d ' ' -f 1)
  jq -n --arg name "$1" --arg digest "sha256:$digest" --argjson size "$(stat -c %s "$work/flux/$1.tar.gz")" '{status: {
    artifact: {path: ($name + ".tar.gz"), url: ("http://10.99.0.1:9790/" + $name + ".tar.gz"), revision: ($name + "@" + $digest),
      digest: $digest, size: $size, lastUpdateTime: (now | todate)},
    conditions: [{type: "Ready", status: "True", reason: "Succeeded", message: "", lastTransitionTime: (now | todate)}]}}' > "$work/flux/status.json"
  kubectl -n flux patch externalartifact chain --subresource status --type merge --patch-file "$work/flux/status.json"
}
# Flux itself has waited for the health of what it applied.
reconciled() { # REVISION
  done_with() {
    kubectl -n flux get kustomization chain -o json | jq -e --arg name "$1@" '(.status.lastAppliedRevision // "" | startswith($name))
      and ([.status.conditions[] | select(.type == "Ready" and .status == "True")] | length == 1)'
  }
  within 360 done_with "$1" || { kubectl -n flux get kustomization chain -o yaml; tell flux; }
}
flux_applies_and_waits() {
  chain | publish one
  reconciled one
  # Ready in Flux's eyes is ready in ours, at that very moment.
  [ "$(kubectl -n flux get "$kinds" -o json | jq '[.items[].status.conditions[] | select(.type == "Ready" and .status == "True")] | length')" = 6 ]
  artefacts flux | diff "$work/one" -
}
flux_rolls_a_change_out() {
  chain | sed 's#training: {steps: 200, batchTokens: 512, learningRate: 0.003}#training: {steps: 200, batchTokens: 512, learningRate: 0.002}#' | publish two
  fails cmp "$work/flux/one/chain.yaml" "$work/flux/two/chain.yaml"
  reconciled two
  artefacts flux > "$work/flux/two.list"
  fails diff <(grep ^FineTune/ "$work/one") <(grep ^FineTune/ "$work/flux/two.list")
  [ "$(grep ^Deployment/ "$work/flux/two.list" | cut -d ' ' -f 2)" = "$(grep ^FineTune/ "$work/flux/two.list" | cut -d ' ' -f 2)" ]
}
flux_prunes() {
  python3 -c 'import sys; print("---\n".join(part for part in sys.stdin.read().split("---\n") if "kind: Deployment" not in part))' < "$work/flux/two/chain.yaml" | publish three
  reconciled three
  none() { [ -z "$(kubectl -n flux get deployments.bessemer.dev,deployments.apps -o name)" ]; }
  within 60 none
  [ "$(kubectl -n flux get "$kinds" -o name | wc -l)" = 5 ]
}
flux_never_fights() { # nobody but Flux owns a field of a spec
  kubectl -n flux get "$kinds" -o json --show-managed-fields |
    jq -e '[.items[].metadata.managedFields[] | select(.fieldsV1["f:spec"]) | .manager] | unique == ["kustomize-controller"]'
}
by_flux() {
  check flux_starts flux_starts
  check flux_applies_the_chain_and_waits_for_it flux_applies_and_waits
  check flux_rolls_a_change_out flux_rolls_a_change_out
  check flux_prunes_a_deleted_manifest flux_prunes
  check nobody_but_flux_owns_a_spec flux_never_fights
  pkill -x kustomize-contr || true
  pkill -f 'http.server --bind 10.99.0.1' || true
}
