#!/usr/bin/env bash
# What tests/dashboards_ui needs beside Python: Grafana's packages in .build/dashboards-ui, bundled, and a Chromium on PATH.
# What cannot be had is said in a line that begins with "skipped:"; the tests then skip what needs it.
set -euo pipefail
cd "$(dirname "$0")/../.."
source=tests/dashboards_ui
target=.build/dashboards-ui

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif command -v sudo >/dev/null; then sudo -n "$@"
    else return 1
    fi
}

install() {
    command -v apt-get >/dev/null || return 1
    as_root apt-get update -qq && as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

have_chromium() { command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null; }

have_chromium || install chromium fonts-dejavu-core || echo "skipped: pictures of dashboards (no Chromium, and apt-get cannot install it here)"
command -v npm >/dev/null || install nodejs npm || true
if ! command -v npm >/dev/null || ! node -e 'process.exit(Number(process.versions.node.split(".")[0]) < 20 ? 1 : 0)'; then
    echo "skipped: dashboards in Grafana's libraries (Node 20 or newer is not installed and apt-get cannot install it here)"
    exit 0
fi

mkdir -p "$target"
if ! cmp -s "$source/package-lock.json" "$target/installed-lock.json"; then
    cp "$source/package.json" "$source/package-lock.json" "$target/"
    if ! (cd "$target" && npm ci --legacy-peer-deps --ignore-scripts --no-audit --no-fund --loglevel=error); then
        echo "skipped: dashboards in Grafana's libraries (npm cannot fetch its packages)"
        exit 0
    fi
    cp "$source/package-lock.json" "$target/installed-lock.json"
fi
cp "$source"/*.mjs "$source"/*.jsx "$target/"
(cd "$target" && node build.mjs)
