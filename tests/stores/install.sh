#!/usr/bin/env bash
# Builds the stores of tests/stores into .build/stores, from their Go modules: Thanos, Cortex and Prometheus 3, some eight minutes
# on two cores from nothing, at once where they stand already. What cannot be had is said in a line that begins with "skipped:".
set -euo pipefail
cd "$(dirname "$0")/../.."
mkdir -p .build/stores
# The modules ask for a Go that is newer than what systems have; Go fetches it as a module.
export GOTOOLCHAIN=${GOTOOLCHAIN:-go1.27.3}

# Without the tag both panic at the first labels that they decode.
tests/build_go_program.sh .build/stores thanos github.com/thanos-io/thanos v0.42.5 ./cmd/thanos -tags slicelabels
tests/build_go_program.sh .build/stores cortex github.com/cortexproject/cortex v1.21.1 ./cmd/cortex -tags slicelabels
tests/build_go_program.sh .build/stores prometheus3 github.com/prometheus/prometheus v0.309.1 ./cmd/prometheus
