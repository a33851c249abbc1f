"""Compares what an account was granted with what it asked for: prints each granted verb that no request used, and ends with 1
if there is one. usage: grants.py AUDIT-LOG USER < `kubectl get clusterroles,roles ... -o json` of the account
"""
import json
import sys

used = set()
with open(sys.argv[1], encoding="utf-8") as log:
    for line in log:
        event = json.loads(line)
        if event["user"].get("username") != sys.argv[2] or event.get("responseStatus", {}).get("code") == 403:
            continue
        target = event.get("objectRef", {})
        resource = "/".join(filter(None, [target.get("resource"), target.get("subresource")]))
        used.add((event["verb"], target.get("apiGroup", ""), resource))
        # An apply that makes the object needs the right to create it too.
        if event["verb"] == "patch" and event.get("responseStatus", {}).get("code") == 201:
            used.add(("create", target.get("apiGroup", ""), resource))

granted = {
    (verb, group, resource)
    for role in json.load(sys.stdin)["items"]
    for rule in role["rules"]
    for verb in rule["verbs"]
    for group in rule["apiGroups"]
    for resource in rule["resources"]
}
unused = sorted(granted - used)
print(f"{len(granted & used)} of {len(granted)} grants were used")
for verb, group, resource in unused:
    print(f"unused: {verb} {resource}{'.' + group if group else ''}")
sys.exit(1 if unused or not granted else 0)
