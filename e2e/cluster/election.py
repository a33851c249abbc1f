"""Reads an audit log for what the replicas of an account did: every write must come from the replica that renewed the
lease last, at most the lease's 15 s before, and no Job may have been made twice. usage: election.py AUDIT-LOG USER
"""
import datetime
import json
import sys

DURATION = 15.0


def moment(event):
    return datetime.datetime.fromisoformat(event["requestReceivedTimestamp"]).timestamp()


events = []
with open(sys.argv[1], encoding="utf-8") as log:
    for line in log:
        event = json.loads(line)
        good = 200 <= event.get("responseStatus", {}).get("code", 0) < 300
        if event["user"].get("username") == sys.argv[2] and event["verb"] in ("create", "update", "patch", "delete") and good:
            events.append(event)
events.sort(key=moment)

leader, renewed, leaders, writes, jobs, wrong = None, 0.0, [], 0, set(), []
for event in events:
    pod = event["user"]["extra"]["authentication.kubernetes.io/pod-name"][0]
    target, now = event.get("objectRef", {}), moment(event)
    name = f'{target.get("namespace")}/{target.get("name")}'
    if target.get("resource") == "leases":
        if pod != leader:
            leaders.append(pod)
        leader, renewed = pod, now
        continue
    writes += 1
    what = f'{event["requestReceivedTimestamp"]} {pod}: {event["verb"]} {target.get("resource")} {name}'
    if pod != leader:
        wrong.append(f"{what}, but {leader} leads")
    elif now - renewed > DURATION:
        wrong.append(f"{what}, {now - renewed:.1f} s after its last renewal")
    if target.get("resource") == "jobs" and event["verb"] == "create":
        if name in jobs:
            wrong.append(f"{what}, a second time")
        jobs.add(name)
print(f"{writes} writes under {len(leaders)} leaderships, {len(jobs)} Jobs")
print("\n".join(wrong))
sys.exit(1 if wrong or len(leaders) < 4 or not jobs else 0)
