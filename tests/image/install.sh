#!/usr/bin/env bash
# What tests/image needs: buildah, podman, runc and mmdebstrap from Debian's packages, and Docker Compose built from its Go module into
# .build/image (four minutes of one core from nothing). What cannot be had is said in a line that begins with "skipped:".
set -euo pipefail
cd "$(dirname "$0")/../.."
mkdir -p .build/image

missing=()
for program in buildah podman runc mmdebstrap; do command -v "$program" >/dev/null || missing+=("$program"); done
if [ ${#missing[@]} -gt 0 ]; then
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "skipped: the image (${missing[*]} cannot be installed: not root, or no apt-get)"
    else
        install=(apt-get install -y -qq --no-install-recommends "${missing[@]}")
        export DEBIAN_FRONTEND=noninteractive
        { "${install[@]}" || { apt-get update -qq && "${install[@]}"; }; } >.build/image/apt.log 2>&1 ||
            echo "skipped: the image (apt-get cannot install ${missing[*]}: $(tail -n 1 .build/image/apt.log))"
    fi
fi

tests/build_go_program.sh .build/image docker-compose github.com/docker/compose/v2 v2.40.3 ./cmd \
    -ldflags "-s -w -X github.com/docker/compose/v2/internal.Version=v2.40.3"
