#!/usr/bin/env python3
"""Writes kubernetes.json.gz: the schemas of the built-in kinds, taken from the
OpenAPI v3 files of the pinned k8s.io/kubernetes module (Apache-2.0).

usage: go mod download k8s.io/kubernetes@v1.37.1 && python3 schema/extract.py
"""
import gzip
import json
import pathlib
import subprocess

VERSION = "v1.37.1"
FILES = [
    "api__v1", "apis__apps__v1", "apis__batch__v1", "apis__events.k8s.io__v1",
    "apis__discovery.k8s.io__v1", "apis__coordination.k8s.io__v1",
    "apis__rbac.authorization.k8s.io__v1", "apis__authentication.k8s.io__v1",
    "apis__authorization.k8s.io__v1", "apis__apiextensions.k8s.io__v1",
    "apis__networking.k8s.io__v1", "apis__policy__v1", "apis__scheduling.k8s.io__v1",
]
PREFIX = "#/components/schemas/"

cache = subprocess.run(["go", "env", "GOMODCACHE"], check=True, capture_output=True, text=True).stdout.strip()
folder = pathlib.Path(cache) / f"k8s.io/kubernetes@{VERSION}/api/openapi-spec/v3"
every = {}
for name in FILES:
    document = json.loads((folder / f"{name}_openapi.json").read_text())
    every.update(document["components"]["schemas"])


def references(node, found):
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            found.add(node["$ref"].removeprefix(PREFIX))
        for value in node.values():
            references(value, found)
    elif isinstance(node, list):
        for value in node:
            references(value, found)


out = pathlib.Path(__file__).with_name("kubernetes.json.gz")
text = json.dumps(every, sort_keys=True, separators=(",", ":"))
with open(out, "wb") as raw, gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0, compresslevel=9) as packed:
    packed.write(text.encode())
print(f"{out}: {len(every)} schemas, {len(text)} bytes, {out.stat().st_size} packed")
