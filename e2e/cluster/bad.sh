# Sourced by `test`: what is missing or wrong ends in one reason on the object, in words that name it.
# shellcheck shell=bash disable=SC2154  # here, chart, kinds, root, system, work: of `test`

lonely() { # URI [more of spec]: a Dataset that needs nothing but its source
  printf '{"apiVersion": "bessemer.dev/v1alpha1", "kind": "Dataset", "metadata": {"name": "docs"}, "spec": {"purpose": "Pretraining",
    "sources": [{"name": "text", "uri": "%s", "format": "Jsonl"}], "tokenizer": {"train": {"vocabularySize": 512}}%s}}' "$1" "${2:-}"
}
without_keys() {
  kubectl create namespace keyless
  lonely s3://fixture/text | kubectl -n keyless apply -f -
  says keyless Environment 'no credentials were found'
}
wrong_keys() {
  kubectl create namespace wrong-keys
  kubectl -n wrong-keys create secret generic bessemer-storage --from-literal=AWS_ACCESS_KEY_ID=nobody --from-literal=AWS_SECRET_ACCESS_KEY=nothing
  lonely s3://fixture/text | kubectl -n wrong-keys apply -f -
  says wrong-keys Environment 'refuses access'
}
absent_bucket_of_a_source() {
  namespace absent-source
  lonely s3://absent/text | kubectl -n absent-source apply -f -
  says absent-source Environment 'bucket absent does not exist'
}
no_node_fits() {
  namespace too-large
  lonely s3://fixture/text ', "resources": {"memory": "4Ti"}' | kubectl -n too-large apply -f -
  says too-large Unschedulable 'Insufficient memory'
}
absent_image() {
  helm upgrade bessemer "$root/charts/bessemer" "${chart[@]}" --set workerImage.tag=absent --wait --timeout 120s
  namespace imageless
  lonely s3://fixture/text | kubectl -n imageless apply -f -
  says imageless ImageUnavailable 'trainer:absent'
  helm rollback bessemer 1 -n "$system" --wait --timeout 120s
}
absent_bucket() {
  helm upgrade bessemer "$root/charts/bessemer" "${chart[@]}" --set storage.bucket=nowhere --wait --timeout 120s
  namespace bucketless
  lonely s3://fixture/text | kubectl -n bucketless apply -f -
  says bucketless '(StorageUnavailable|Environment)' 'bucket nowhere does not exist'
  helm rollback bessemer 1 -n "$system" --wait --timeout 120s
}
# The operator's own process, as it would end in its pod.
refuses_to_start() { # PART-OF-MESSAGE
  fails timeout 30 "$binaries/bessemer-operator" --image none --bucket none --health-address 127.0.0.1:0 --intake-address 127.0.0.1:0 2> "$work/said"
  grep -F "$1" "$work/said" || { cat "$work/said"; return 1; }
}
missing_definitions() { refuses_to_start 'DefinitionsMissing: the API server knows no bessemer.dev/v1alpha1; install charts/bessemer-crds'; }
older_definitions() {
  change_definition '[{"op": "remove", "path": "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/route"},
    {"op": "replace", "path": "/spec/versions/0/schema/openAPIV3Schema/properties/spec/x-kubernetes-validations", "value": []}]'
  within 60 refuses_to_start 'DefinitionsOld: the cluster'"'"'s definitions are older than this operator: Deployment has no spec.route; upgrade charts/bessemer-crds'
  restore_definition
}
quota_exceeded() {
  namespace quota
  kubectl -n quota create quota none --hard=pods=0
  lonely s3://fixture/text | kubectl -n quota apply -f -
  says quota PodRefused 'exceeded quota: none'
  kubectl -n quota delete quota none
  ready quota 300s || tell quota # and it goes on by itself
}
bad_input() {
  check a_namespace_without_keys_is_named without_keys
  check wrong_keys_are_named wrong_keys
  check an_absent_bucket_of_a_source_is_named absent_bucket_of_a_source
  check what_no_node_can_hold_is_named no_node_fits
  check an_absent_image_is_named absent_image
  check an_absent_bucket_of_the_operator_is_named absent_bucket
  check an_exceeded_quota_is_named quota_exceeded
  check older_definitions_are_named older_definitions
}
