#!/usr/bin/env bash
# Builds a real Ollama for the CPU into .build/ollama/ollama, from its Go module: 8 to 10 minutes on two cores from nothing, at
# once where it stands already. Needs Go and a C++ compiler; headers that the module archive lacks come from Debian's packages
# and from PyPI, unpacked beside the binary, so that nothing but a missing compiler is installed into the system.
# Exit 3: no Go, one that is too old, or no way to the modules; .build/ollama/why_not then says which, for the tests that skip.
# Any other failure: 1 or the failing tool's own code.
set -euo pipefail
cd "$(dirname "$0")/.."

# From 0.30 on Ollama runs a separate llama-server program and no longer comes out of one Go build.
version=0.17.4
miniaudio=1.61
needs_go=1.24

target=$PWD/.build/ollama
headers=$target/include

say() { echo "build_ollama: $*" >&2; }

cannot() {
    say "$*"
    mkdir -p "$target"
    echo "$*" >"$target/why_not"
    exit 3
}

flags="-O3"
# Without these instructions prefill is some 7 times slower, and with them the binary stops at once on a CPU that lacks them.
cpu=$(grep -m1 '^flags' /proc/cpuinfo || true)
case $(uname -m) in
    x86_64)
        if [[ " $cpu " == *" avx2 "* && " $cpu " == *" fma "* && " $cpu " == *" f16c "* && " $cpu " == *" bmi2 "* ]]; then
            flags+=" -mavx2 -mfma -mf16c -mbmi2"
        else
            say "this CPU has no AVX2: the model will be slow"
        fi
        ;;
esac
stamp="ollama $version $(uname -m) $flags"

if [[ -x $target/ollama && -f $target/stamp && $(<"$target/stamp") == "$stamp" ]]; then
    echo "ready: .build/ollama/ollama $version"
    exit 0
fi

if ! command -v go >/dev/null; then
    cannot "Go is missing; Ollama needs Go $needs_go or newer on PATH"
fi
has_go=$(go env GOVERSION)
has_go=${has_go#go}
if [[ $(printf '%s\n%s\n' "$needs_go" "$has_go" | sort -V | head -n1) != "$needs_go" ]]; then
    cannot "Go $has_go is too old; Ollama needs Go $needs_go or newer"
fi

as_root() {
    if [[ $(id -u) == 0 ]]; then "$@"
    elif command -v sudo >/dev/null; then sudo "$@"
    else say "this needs root and there is no sudo; run as root: $*"; exit 1
    fi
}

need_apt() {
    command -v apt-get >/dev/null && return
    say "$1 is missing and this system has no apt-get; install it, then run this again"
    exit 1
}

lists_updated=
update_lists() {
    [[ -z $lists_updated ]] || return 0
    as_root apt-get update -qq
    lists_updated=yes
}

# unpack_headers PACKAGE HEADER: Debian's package into our own folder, unless the compiler finds the header without it.
unpack_headers() {
    local package=$1 header=$2 folder
    [[ -f $headers/$header || -f /usr/include/$header ]] && return
    need_apt "$package"
    apt-cache show "$package" >/dev/null 2>&1 || update_lists
    folder=$(mktemp -d)
    # apt drops its privileges for a download and then must be able to write here.
    chmod 777 "$folder"
    (cd "$folder" && apt-get download -qq "$package") || {
        update_lists
        (cd "$folder" && apt-get download -qq "$package")
    }
    dpkg-deb -x "$folder"/*.deb "$folder/unpacked"
    cp -r "$folder/unpacked/usr/include/." "$headers/"
    rm -rf "$folder"
}

# The Python package carries the one header as part of its source.
unpack_miniaudio() {
    local folder python=.venv/bin/python
    [[ -f $headers/miniaudio/miniaudio.h ]] && return
    [[ -x $python ]] || python=python3
    folder=$(mktemp -d)
    "$python" -m pip download --quiet --disable-pip-version-check --no-deps --no-binary :all: -d "$folder" "miniaudio==$miniaudio"
    tar xzf "$folder"/miniaudio-*.tar.gz -C "$folder"
    mkdir -p "$headers/miniaudio"
    cp "$folder"/miniaudio-*/miniaudio/miniaudio.h "$headers/miniaudio/"
    rm -rf "$folder"
}

mkdir -p "$headers"
if ! command -v c++ >/dev/null || ! command -v cc >/dev/null; then
    need_apt "a C++ compiler"
    update_lists
    as_root apt-get install -y -qq --no-install-recommends g++ gcc libc6-dev
fi
unpack_headers nlohmann-json3-dev nlohmann/json.hpp
unpack_headers libstb-dev stb/stb_image.h
unpack_miniaudio

say "building Ollama $version (about 10 minutes on two cores)"
began=$SECONDS
rm -f "$target/stamp" "$target/why_not"
# The compilers warn a lot; what they say is wanted only where they fail.
CGO_ENABLED=1 CGO_CPPFLAGS="-I$headers" CGO_CFLAGS=$flags CGO_CXXFLAGS=$flags GOBIN=$target \
    go install -ldflags "-X github.com/ollama/ollama/version.Version=$version" "github.com/ollama/ollama@v$version" \
    2>"$target/build.log" || {
    code=$?
    tail -n 40 "$target/build.log" >&2
    say "the build failed; all of what it said is in .build/ollama/build.log"
    # Go names the address that it could not read; a compiler never does.
    if grep -qE '^go: .*https?://' "$target/build.log"; then
        cannot "Go could not fetch Ollama's modules; see .build/ollama/build.log"
    fi
    exit $((code == 3 ? 1 : code))
}
echo "$stamp" >"$target/stamp"
echo "ready: .build/ollama/ollama $version, built in $((SECONDS - began)) s"
