#!/usr/bin/env bash
# Puts libtorch 2.11.0 (the CPU part of the PyPI wheel) into Bessemer's cache and prints its directory.
# Safe to run again and at the same time from two shells: the directory appears only when complete.
set -euo pipefail

cache=${BESSEMER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/bessemer}
target=$cache/libtorch-2.11.0
[ -f "$target/.complete" ] && { echo "$target"; exit 0; }
command -v python3 >/dev/null || { echo "libtorch.sh: python3 with pip is needed to fetch libtorch; install python3 and python3-pip" >&2; exit 78; }
command -v cc >/dev/null || { echo "libtorch.sh: a C compiler is needed; install gcc" >&2; exit 78; }

mkdir -p "$cache"
free_kib=$(df -Pk "$cache" | awk 'NR==2 {print $4}')
[ "$free_kib" -gt 3000000 ] || { echo "libtorch.sh: $cache has less than 3 GB free; free some space or set BESSEMER_CACHE" >&2; exit 78; }
work=$(mktemp -d "$cache/libtorch.XXXXXX")
trap 'rm -rf "$work"' EXIT

echo "fetching libtorch 2.11.0 (530 MB) ..." >&2
python3 -m pip download --quiet --no-deps --dest "$work/wheel" \
  ${BESSEMER_WHEELS:+--find-links "$BESSEMER_WHEELS"} \
  torch==2.11.0 nvidia-cuda-runtime==13.0.96 nvidia-cuda-cupti==13.0.85 >&2

mkdir -p "$work/tree/lib"
python3 - "$work" <<'PY'
import pathlib, sys, zipfile
work = pathlib.Path(sys.argv[1])
lib, tree = work / "tree" / "lib", work / "tree"
wanted = {"libc10.so", "libtorch_cpu.so", "libgomp.so.1", "libcudart.so.13", "libcupti.so.13"}
for wheel in sorted((work / "wheel").glob("*.whl")):
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            base = name.rsplit("/", 1)[-1]
            if base in wanted or base.startswith("libgomp"):
                (lib / base).write_bytes(archive.read(name))
            elif name.startswith("torch/include/") and not name.endswith("/"):
                path = tree / name.removeprefix("torch/")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(archive.read(name))
missing = wanted - {p.name for p in lib.iterdir()}
if missing:
    sys.exit(f"libtorch.sh: the wheels lack {sorted(missing)}; was another version fetched?")
PY
# torch-sys links -ltorch; the real one only pulls in libtorch_cpu, and CUDA which is not here.
cc -shared -Wl,-soname,libtorch.so -o "$work/tree/lib/libtorch.so" -x c /dev/null
echo "2.11.0" > "$work/tree/build-version"
touch "$work/tree/.complete"
rm -rf "$target"
mv "$work/tree" "$target"
echo "$target"
