#!/usr/bin/env bash
# The real client packages of tests/clients, pinned, each group in an environment of its own under .build/clients. A group that cannot
# be installed is said in a line that begins with "skipped:", kept beside it in why_not, and its tests are skipped.
set -euo pipefail
cd "$(dirname "$0")/../.."
target=$PWD/.build/clients
python=${PYTHON:-python3}
mkdir -p "$target"

install() {
    local name=$1 venv=$target/$1
    shift
    if [ "$(cat "$venv/.installed" 2>/dev/null)" = "$*" ]; then return; fi
    rm -rf "$venv"
    if command -v uv >/dev/null; then
        uv venv -q --python .venv/bin/python "$venv" && uv pip install -q --python "$venv/bin/python" "$@" 2>"$target/$name.log"
    else
        .venv/bin/python -m venv "$venv" && "$venv/bin/python" -m pip install -q --disable-pip-version-check "$@" 2>"$target/$name.log"
    fi && echo "$*" >"$venv/.installed" && rm -f "$target/$name.why_not" && return
    echo "it cannot be installed here: $(tail -n 1 "$target/$name.log")" >"$target/$name.why_not"
    echo "skipped: $name ($(cat "$target/$name.why_not"))"
}

# With Joulebench, and what its tests of instrumented clients and examples need.
install libraries openai==3.57.0 ollama==0.6.3 litellm==1.110.2 langchain-openai==1.7.4 inspect-ai==0.3.285 \
    pytest==9.2.0 pytest-timeout==2.4.0 pytest-xdist==3.8.0 -e '.[demo]'
install aiperf aiperf==0.13.0
install lm_eval 'lm-eval[api]==0.4.13'
# Its data loader imports PyTorch, which brings 5 GB of CUDA libraries.
echo "guidellm 0.8.1 requires PyTorch, whose installation is 5.6 GB" >"$target/guidellm.why_not"
echo "skipped: guidellm ($(cat "$target/guidellm.why_not"))"
