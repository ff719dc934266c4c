#!/usr/bin/env bash
# What tests/slurm needs, in .build/slurm: the programs of Slurm from Debian's packages, unpacked and not installed, so that no service
# of this machine is touched. What cannot be had is said in a line that begins with "skipped:".
set -euo pipefail
cd "$(dirname "$0")/../.."
target=$PWD/.build/slurm
[ -x "$target/usr/sbin/slurmctld-wlm" ] && exit 0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# apt hands the download to a user of its own.
chmod 755 "$work"

packages="slurmctld slurmd slurm-client slurm-wlm-basic-plugins libhwloc15"
# shellcheck disable=SC2086  # a list of words
if ! command -v apt-get >/dev/null || ! (cd "$work" && apt-get download -qq $packages) >/dev/null 2>&1; then
    echo "skipped: Slurm (apt-get cannot download its packages here)"
    exit 0
fi
mkdir -p "$target"
for package in "$work"/*.deb; do dpkg-deb -x "$package" "$target"; done
