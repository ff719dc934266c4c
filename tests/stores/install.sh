#!/usr/bin/env bash
# Builds the stores of tests/stores into .build/stores, from their Go modules: Thanos, Cortex and Prometheus 3, some eight minutes
# on two cores from nothing, at once where they stand already. What cannot be had is said in a line that begins with "skipped:".
set -uo pipefail
cd "$(dirname "$0")/../.."
target=$PWD/.build/stores
mkdir -p "$target"
# The modules ask for a Go that is newer than what systems have; Go fetches it as a module.
export GOTOOLCHAIN=${GOTOOLCHAIN:-go1.27.3} CGO_ENABLED=0

# build PROGRAM MODULE VERSION PACKAGE FLAGS...
# Built from a copy of the module: its go.mod replaces some of what it needs, which "go install MODULE@VERSION" refuses.
build() {
    local program=$1 module=$2 version=$3 package=$4 folder source began=$SECONDS
    shift 4
    if [ -x "$target/$program" ] && [ "$(cat "$target/$program.version" 2>/dev/null)" = "$version" ]; then
        echo "ready: .build/stores/$program $version"
        return
    fi
    if ! command -v go >/dev/null; then
        echo "skipped: $program (no Go, which builds it)"
        return
    fi
    folder=$(mktemp -d)
    if ! (cd "$folder" && go mod download -json "$module@$version" >module.json 2>log); then
        echo "skipped: $program (its Go module cannot be had: $(tail -n 1 "$folder/log"))"
        rm -rf "$folder"
        return
    fi
    source=$(sed -n 's/^\t"Dir": "\(.*\)",$/\1/p' "$folder/module.json")
    cp -r "$source" "$folder/source" && chmod -R u+w "$folder/source"
    echo "building $program $version" >&2
    if ! (cd "$folder/source" && go build -mod=mod "$@" -o "$target/$program" "$package" >"$target/$program.log" 2>&1); then
        tail -n 20 "$target/$program.log" >&2
        rm -rf "$folder"
        # Go names the address that it could not read; a compiler never does.
        if grep -qE '^go: .*https?://' "$target/$program.log"; then
            echo "skipped: $program (a Go module that it needs cannot be had)"
            return
        fi
        exit 1
    fi
    rm -rf "$folder"
    echo "$version" >"$target/$program.version"
    echo "ready: .build/stores/$program $version, built in $((SECONDS - began)) s"
}

# Without the tag both panic at the first labels that they decode.
build thanos github.com/thanos-io/thanos v0.42.5 ./cmd/thanos -tags slicelabels
build cortex github.com/cortexproject/cortex v1.21.1 ./cmd/cortex -tags slicelabels
build prometheus3 github.com/prometheus/prometheus v0.309.1 ./cmd/prometheus
