#!/usr/bin/env bash
# tests/build_go_program.sh FOLDER PROGRAM MODULE VERSION PACKAGE FLAGS...
# Builds PROGRAM into FOLDER from its Go module, at once where it stands there already. Where it cannot be had, says so in a line that
# begins with "skipped:". Exit status 1: the build failed.
# Built from a copy of the module: its go.mod replaces some of what it needs, which "go install MODULE@VERSION" refuses.
set -uo pipefail
target=$(cd "$1" && pwd) program=$2 module=$3 version=$4 package=$5 began=$SECONDS
shown=${target#"$PWD"/}/$program
shift 5

if [ -x "$target/$program" ] && [ "$(cat "$target/$program.version" 2>/dev/null)" = "$version" ]; then
    echo "ready: $shown $version"
    exit 0
fi
if ! command -v go >/dev/null; then
    echo "skipped: $program (no Go, which builds it)"
    exit 0
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
if ! (cd "$folder" && go mod download -json "$module@$version" >module.json); then
    echo "skipped: $program (its Go module cannot be had: $(sed -n 's/^\t"Error": "\(.*\)"$/\1/p' "$folder/module.json"))"
    exit 0
fi
source=$(sed -n 's/^\t"Dir": "\(.*\)",$/\1/p' "$folder/module.json")
cp -r "$source" "$folder/source" && chmod -R u+w "$folder/source"
echo "building $program $version" >&2
if ! (cd "$folder/source" && CGO_ENABLED=0 go build -mod=mod "$@" -o "$target/$program" "$package" >"$target/$program.log" 2>&1); then
    tail -n 20 "$target/$program.log" >&2
    # Go names the address that it could not read; a compiler never does.
    if grep -qE '^go: .*https?://' "$target/$program.log"; then
        echo "skipped: $program (a Go module that it needs cannot be had)"
        exit 0
    fi
    exit 1
fi
echo "$version" >"$target/$program.version"
echo "ready: $shown $version, built in $((SECONDS - began)) s"
