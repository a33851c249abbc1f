"""Verifies artefacts in the S3 server without any of Bessemer's code: reads `kubectl get -o json` from stdin, fetches each
manifest and every file, and compares digests. Prints one line per object. usage: artefact.py PROGRAM-THAT-READS-A-KEY
"""
import hashlib
import json
import subprocess
import sys


def get(uri):
    return subprocess.run([sys.argv[1], "GET", uri.removeprefix("s3://")], check=True, stdout=subprocess.PIPE).stdout


def canonical(value):
    """RFC 8785, for what manifests hold."""
    if isinstance(value, dict):
        order = sorted(value, key=lambda key: key.encode("utf-16-be"))
        return "{" + ",".join(f"{canonical(key)}:{canonical(value[key])}" for key in order) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(canonical, value)) + "]"
    if isinstance(value, float):
        sign, text = ("-", repr(-value)) if value < 0 else ("", repr(value))
        digits, _, exponent = text.partition("e")
        if not exponent:
            return sign + digits.removesuffix(".0") if value else "0"
        # Python writes an exponent below 1e-4 and from 1e16 on, ECMAScript below 1e-6 and from 1e21 on.
        power, (whole, _, part) = int(exponent), digits.partition(".")
        if 16 <= power < 21:
            return sign + (whole + part).ljust(power + 1, "0")
        if -7 < power < 0:
            return sign + "0." + "0" * (-power - 1) + whole + part
        return f"{sign}{digits}e{power:+d}"
    return json.dumps(value, ensure_ascii=False)


for item in json.load(sys.stdin)["items"]:
    name = f"{item['kind']}/{item['metadata']['name']}"
    artefact = item["status"].get("artifact")
    if artefact is None:  # a Deployment makes none: what it serves
        print(name, item["status"]["traffic"][0]["digest"])
        continue
    manifest = json.loads(get(artefact["uri"] + "/manifest.json"))
    identity = {key: manifest[key] for key in ("schemaVersion", "kind", "files", "inputs", "parameters", "seed")}
    digest = hashlib.sha256(canonical(identity).encode()).hexdigest()
    assert digest == artefact["digest"], f"{name}: the manifest has digest {digest}, status says {artefact['digest']}"
    assert artefact["uri"].endswith(digest), artefact
    assert manifest["files"], f"{name} has no files"
    for file in manifest["files"]:
        data = get(f"{artefact['uri']}/{file['path']}")
        assert (len(data), hashlib.sha256(data).hexdigest()) == (file["size"], file["sha256"]), f"{name}: {file['path']} is damaged"
    print(name, digest)
