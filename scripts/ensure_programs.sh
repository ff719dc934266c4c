#!/usr/bin/env bash
# Makes sure that Prometheus, promtool, Pushgateway and Alertmanager are at hand: those on PATH are used as they are; missing
# ones are unpacked from Debian's packages into .build/programs, so that no system service is installed or started.
# With --with-compiler it also makes sure of what only tests need: a C compiler (they build a fake NVML), and VictoriaMetrics
# where apt has it; its tests are skipped elsewhere.
set -euo pipefail
cd "$(dirname "$0")/.."
unpacked=.build/programs

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif command -v sudo >/dev/null; then sudo "$@"
    else echo "ensure_programs: this needs root and there is no sudo; run as root: $*" >&2; exit 1
    fi
}

need_apt() {
    command -v apt-get >/dev/null && return
    echo "ensure_programs: $1 is missing and this system has no apt-get; put it on PATH, then run this again" >&2
    exit 1
}

lists_updated=
update_lists() {
    [ -z "$lists_updated" ] || return 0
    as_root apt-get update -qq
    lists_updated=yes
}

have() {
    local name
    for name in "$@"; do
        command -v "$name" >/dev/null && return
        [ -x "$unpacked/usr/bin/$name" ] && return
    done
    return 1
}

unpack() {
    local package=$1 folder
    need_apt "$package"
    # Each step says what becomes of a failure: a caller that goes on without the package has no set -e here.
    apt-cache show "$package" >/dev/null 2>&1 || update_lists || return
    folder=$(mktemp -d)
    # apt drops its privileges for a download and then must be able to write here.
    chmod 777 "$folder"
    (cd "$folder" && apt-get download -qq "$package") || {
        update_lists && (cd "$folder" && apt-get download -qq "$package")
    } || { rm -rf "$folder"; return 1; }
    mkdir -p "$unpacked"
    dpkg-deb -x "$folder"/*.deb "$unpacked" || return
    rm -rf "$folder"
    echo "unpacked $package into $unpacked"
}

have prometheus && have promtool || unpack prometheus
have pushgateway prometheus-pushgateway || unpack prometheus-pushgateway
have alertmanager prometheus-alertmanager || unpack prometheus-alertmanager

[ "${1:-}" = --with-compiler ] || exit 0

if ! command -v cc >/dev/null; then
    need_apt "a C compiler"
    update_lists
    as_root apt-get install -y -qq --no-install-recommends gcc libc6-dev
fi

# In a subshell: nothing else depends on it, so whatever fails here ends only this.
have victoria-metrics victoria-metrics-prod || (unpack victoria-metrics) ||
    echo "ensure_programs: no victoria-metrics; the tests that need it are skipped" >&2
