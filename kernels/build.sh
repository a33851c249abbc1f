#!/usr/bin/env bash
# Compiles the CUDA kernels with nvcc from its wheels and prints the library's path. No GPU and no CUDA toolkit
# are needed. Everything lies in Bessemer's cache; unchanged sources are not compiled again.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
cache=${BESSEMER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/bessemer}
toolkit=$cache/nvcc-13.0.88
library=$cache/kernels/libbessemer_kernels_cuda.so
architectures=${BESSEMER_CUDA_ARCHITECTURES:-80 90}

if [ ! -f "$toolkit/.complete" ]; then
  command -v python3 >/dev/null || { echo "build.sh: python3 with pip is needed to fetch nvcc; install python3 and python3-pip" >&2; exit 78; }
  mkdir -p "$cache"
  work=$(mktemp -d "$cache/nvcc.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  echo "fetching nvcc 13.0.88 (100 MB) ..." >&2
  python3 -m pip download --quiet --no-deps --dest "$work/wheel" \
    ${BESSEMER_WHEELS:+--find-links "$BESSEMER_WHEELS"} \
    nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-cuda-runtime==13.0.96 \
    nvidia-cuda-cccl==13.0.85 >&2
  for wheel in "$work"/wheel/*.whl; do python3 -m zipfile -e "$wheel" "$work/tree"; done
  chmod +x "$work"/tree/nvidia/cu13/bin/* "$work"/tree/nvidia/cu13/nvvm/bin/*
  touch "$work/tree/nvidia/cu13/.complete"
  rm -rf "$toolkit"
  mv "$work/tree/nvidia/cu13" "$toolkit"
fi

mkdir -p "$(dirname "$library")"
sources=$(cat "$here"/cuda/*.cu "$here/build.sh" | sha256sum | cut -d' ' -f1)-${architectures// /-}
if [ ! -f "$library" ] || [ "$(cat "$library.sources" 2>/dev/null)" != "$sources" ]; then
  targets=()
  for architecture in $architectures; do
    targets+=(-gencode "arch=compute_$architecture,code=sm_$architecture")
  done
  "$toolkit/bin/nvcc" -O3 -std=c++17 -shared -Xcompiler -fPIC -cudart static "${targets[@]}" \
    -L"$toolkit/lib" -o "$library.partial" "$here"/cuda/*.cu >&2
  mv "$library.partial" "$library"
  echo "$sources" > "$library.sources"
fi
echo "$library"
