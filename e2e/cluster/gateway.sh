# Sourced by `test`: a Gateway gets the router's division by an HTTPRoute, with the Gateway API's own definition of it. No
# controller of a Gateway runs here; its answer is written by hand.
# shellcheck shell=bash disable=SC2154  # bin, work: of `test`

route_of_one() { kubectl -n one get httproutes.gateway.networking.k8s.io -o json | jq -e "${@:2}" ".items[0] | $1"; }
chat_says() { says one "$1" "$2" deployments.bessemer.dev/chat "${3:-False}"; } # REASON PART-OF-MESSAGE [STATUS]
accept() {
  kubectl -n one patch "$(kubectl -n one get httproutes.gateway.networking.k8s.io -o name)" --subresource=status --type merge -p "$(route_of_one '{status: {parents: [{
    parentRef: .spec.parentRefs[0], controllerName: "example.com/gateway", conditions: [{type: "Accepted", status: "True", reason: "Accepted",
    message: "", observedGeneration: .metadata.generation, lastTransitionTime: "2026-01-01T00:00:00Z"}]}]}}')"
}
routed() { kubectl -n one patch deployments.bessemer.dev chat --type merge -p "{\"spec\": {\"route\": $1}}"; }
a_missing_gateway_api_is_named() {
  routed '{"parentRefs": [{"name": "edge"}], "hostnames": ["chat.example"]}'
  chat_says GatewayUnavailable 'the API server knows no HTTPRoute'
  [ "$(ask one chat)" = 200 ]
}
a_gateway_gets_the_shares() {
  kubectl apply --server-side -f "$bin/httproutes.crd.yaml"
  chat_says RouteNotAccepted 'no controller has answered for Gateway edge yet'
  route_of_one '.spec.parentRefs[0].name == "edge" and .spec.hostnames == ["chat.example"] and .spec.rules[0].matches[0].path.value == "/v1"'
  kubectl -n one get deployments.bessemer.dev chat -o json | jq '[.status.traffic[] | {revision, percent}]' > "$work/shares"
  route_of_one '[.spec.rules[0].backendRefs[] | {revision: (.name | split("-") | last), percent: .weight}] == $shares[0]' --slurpfile shares "$work/shares"
  # The Services it names are there.
  for name in $(route_of_one '.spec.rules[0].backendRefs[].name' -r); do kubectl -n one get service "$name"; done
  accept
  chat_says Serving 'takes all traffic' True
  [ "$(ask one chat)" = 200 ]
}
a_route_changes_and_goes_with_the_field() {
  routed '{"hostnames": ["chat.example", "other.example"]}'
  changed() { route_of_one '.spec.hostnames == ["chat.example", "other.example"]'; }
  within 60 changed
  accept
  chat_says Serving 'takes all traffic' True
  routed null
  none() { [ -z "$(kubectl -n one get httproutes.gateway.networking.k8s.io -o name)" ]; }
  within 60 none
  kubectl delete -f "$bin/httproutes.crd.yaml"
}
by_a_gateway() {
  check a_missing_gateway_api_is_named a_missing_gateway_api_is_named
  check a_gateway_gets_the_shares_of_the_router a_gateway_gets_the_shares
  check a_route_changes_and_goes_with_the_field a_route_changes_and_goes_with_the_field
}
