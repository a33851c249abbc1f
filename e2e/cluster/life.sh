# Sourced by `test`: what else happens to objects in their life, each on pods: suspension, a new version, keys, artefacts
# that go with their object. After it every right that the operator was granted has been used.
# shellcheck shell=bash disable=SC2154  # account, here, kinds, state, system, work: of `test`

secret=bessemer-api-keys # the one that the chart lets the operator read
whole_life() {
  chain | kubectl -n life create --dry-run=client -o json -f - | jq --arg secret "$secret" 'if .kind == "Deployment"
    then .spec.auth = {apiKeysSecretRef: {name: $secret}} else .spec += {artifactPolicy: "Delete", ttlSecondsAfterFinished: 20} end'
}
a_run_is_suspended_and_goes_on() {
  namespace life
  kubectl -n life create secret generic "$secret" --from-literal=reader=open-sesame
  whole_life | kubectl -n life apply -f -
  within 120 at_work life PretrainJob
  kubectl -n life patch pretrainjob base --type merge -p '{"spec": {"suspend": true}}'
  held() {
    kubectl -n life get jobs -l bessemer.dev/name=base -o json |
      jq -e '[.items[] | select(.spec.suspend and (.status.active // 0) == 0)] | length > 0'
  }
  within 60 held
  kubectl -n life wait pretrainjob base --for=condition=Suspended --timeout=60s
  kubectl -n life patch pretrainjob base --type merge -p '{"spec": {"suspend": false}}'
  ready life 300s || tell life
  artefacts life | diff "$work/one" -
}
a_key_is_asked_for() {
  [ "$(ask life chat)" = 401 ]
  [ "$(ask life chat -H 'authorization: Bearer open-sesame')" = 200 ]
}
remains_go_after_their_time() {
  none() { [ -z "$(kubectl -n life get jobs -o name)" ]; }
  within 120 none
}
a_new_version_takes_over() {
  local before digest written
  digest=$(kubectl -n life get deployments.bessemer.dev chat -o 'jsonpath={.status.traffic[0].digest}')
  before=$(kubectl -n life get deployments.bessemer.dev chat -o 'jsonpath={.status.revision}')
  kubectl -n life patch finetune tuned --type merge -p '{"spec": {"training": {"seed": 7}}}'
  served() {
    kubectl -n life get deployments.bessemer.dev chat -o json | jq -e --arg before "$before" \
      '.status.revision != $before and ([.status.conditions[] | select(.type == "Ready" and .status == "True")] | length) == 1'
  }
  # Seen by the router how long after the traffic's ConfigMap was written.
  moved() { kubectl -n life get configmaps -o json | jq -e --arg before "$before" '[.items[].data["route.json"] // empty | fromjson.backends[]
    | select(.weight == 100 and .name != $before)] | length > 0'; }
  within 300 moved || tell life
  written=$(date +%s%N)
  answers_anew() { [ "$(ask life chat -H 'authorization: Bearer open-sesame' -D "$work/head")" = 200 ] && ! grep -qi "x-bessemer-digest: $digest" "$work/head"; }
  within 300 answers_anew || tell life
  echo "the router divided anew $((($(date +%s%N) - written) / 1000000)) ms after its ConfigMap" > "$work/moved"
  within 300 served || tell life
  [ "$(ask life chat -H 'authorization: Bearer open-sesame')" = 200 ]
  # Of the old one nothing stays.
  alone() { [ "$(kubectl -n life get deployments.apps,services,configmaps -o name | grep -c -- "-$before")" = 0 ]; }
  within 400 alone || { kubectl -n life get deployments.apps,services,configmaps; return 1; }
}
# Users first: what a living object refers to stays. So does what chains of other namespaces made alike, by its digest.
artefacts_go_with_their_objects() {
  artefacts life > "$work/life"
  cut -d ' ' -f 2 "$work/life" | sort -u | comm -23 - <(cut -d ' ' -f 2 "$work/one" | sort -u) > "$work/own"
  [ "$(wc -l < "$work/own")" = 2 ] # the tuned model's and its evaluation's new versions
  stored() { find "$state/s3/models/life" -type f | grep -F -f "$work/own"; }
  stored > "$work/stored"
  for kind in deployments.bessemer.dev evaluations finetunes pretrainjobs; do
    kubectl -n life delete "$kind" --all --timeout=120s
  done
  kubectl -n life delete dataset pairs docs --timeout=120s
  none() { fails stored; }
  within 60 none || { stored; return 1; }
}
# Definitions that are older than the operator may let through what it cannot read.
an_object_that_cannot_be_read_is_named() {
  change_definition '[{"op": "replace", "path": "/spec/versions/0/schema/openAPIV3Schema/properties/spec",
    "value": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}]'
  odd() { printf '{"apiVersion": "bessemer.dev/v1alpha1", "kind": "Deployment", "metadata": {"name": "odd"},
    "spec": {"modelRef": {"kind": "FineTune", "name": "tuned"}, "maxConcurrency": "many"}}' | kubectl -n life apply -f -; }
  within 30 odd
  named() { kubectl -n life get deployments.bessemer.dev odd -o 'jsonpath={.status.conditions[?(@.type=="Ready")]}' | grep -F InvalidSpec | grep -F 'cannot be read'; }
  within 60 named
  kubectl -n life delete deployments.bessemer.dev odd
  restore_definition
}
# What each role grants is what the audit log shows as asked for.
every_grant_is_used() {
  kubectl get clusterroles,roles -A -l app.kubernetes.io/name=bessemer -o json | python3 "$here/grants.py" "$state/audit/audit.log" "$account"
}
whole_lives() {
  check a_run_is_suspended_and_goes_on a_run_is_suspended_and_goes_on
  check a_served_model_asks_for_its_key a_key_is_asked_for
  check remains_go_after_their_time remains_go_after_their_time
  check a_new_version_takes_over_and_nothing_of_the_old_stays a_new_version_takes_over
  cat "$work/moved"
  check artefacts_go_with_their_objects artefacts_go_with_their_objects
  check an_object_that_cannot_be_read_is_named an_object_that_cannot_be_read_is_named
}
