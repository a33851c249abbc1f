# Sourced by `test`: leader election under partition, on real time.
# shellcheck shell=bash disable=SC2154  # account, here, state, system, work: of `test`

# Three times the leader is cut off from the API server until another leads, in the middle of a chain.
partitions() {
  local round cut now address wall started
  namespace election
  chain | kubectl -n election apply -f -
  for round in 1 2 3; do
    cut=$(leader)
    address=$(kubectl -n "$system" get pod "$cut" -o 'jsonpath={.status.podIP}')
    wall=(INPUT -s "$address" -p tcp --dport 6443 -j DROP)
    iptables -I "${wall[@]}"
    started=$(date +%s%N)
    another() { now=$(leader) && [ -n "$now" ] && [ "$now" != "$cut" ]; }
    within 40 another || { iptables -D "${wall[@]}"; return 1; }
    echo "round $round: $now leads $((($(date +%s%N) - started) / 1000000)) ms after $cut was cut off"
    iptables -D "${wall[@]}"
  done
  ready election 300s || tell election
  artefacts election | diff "$work/one" -
  kubectl -n "$system" rollout status deployment/bessemer --timeout=120s
}
one_at_a_time() { python3 "$here/election.py" "$state/audit/audit.log" "$account"; }
elections() {
  check three_partitioned_leaders_are_replaced partitions
  grep '^round' "$work/out" || true
  check no_leader_wrote_beyond_its_lease_and_nothing_was_made_twice one_at_a_time
}
