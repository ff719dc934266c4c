#!/usr/bin/env bash
# Runs a core part of the tests with each Python that pyproject.toml promises, where an interpreter of it is at hand: on PATH or of
# pyenv. Nothing is downloaded but packages; the environments are kept in .build/python. A version without an interpreter is named.
set -euo pipefail
cd "$(dirname "$0")/.."
versions=(3.10 3.11 3.12 3.13)
tests=(tests/unit/energy tests/unit/push/test_run.py tests/unit/schema tests/unit/stack tests/unit/results/test_export.py tests/unit/confidence tests/contract/test_imports.py tests/contract/test_help.py)

interpreter() {
    local candidate
    for candidate in "$(command -v "python$1" || true)" "$HOME"/.pyenv/versions/"$1".*/bin/"python$1"; do
        # A shim of pyenv may be there for a version that is not chosen.
        [ -x "$candidate" ] && "$candidate" -c "import sys; assert '%d.%d' % sys.version_info[:2] == '$1'" 2>/dev/null && {
            echo "$candidate"
            return
        }
    done
    return 1
}

failed=0
for version in "${versions[@]}"; do
    if ! python=$(interpreter "$version"); then
        echo "Python $version: skipped, no interpreter is at hand"
        continue
    fi
    place=.build/python/$version
    if [ ! -e "$place/.installed" ] || [ pyproject.toml -nt "$place/.installed" ]; then
        if command -v uv >/dev/null; then
            uv venv --quiet --allow-existing --python "$python" "$place"
            uv pip install --quiet --python "$place/bin/python" -e '.[demo,dev]'
        else
            "$python" -m venv "$place"
            "$place/bin/python" -m pip install --quiet --disable-pip-version-check -e '.[demo,dev]'
        fi
        touch "$place/.installed"
    fi
    echo "Python $version: $("$place/bin/python" --version)"
    "$place/bin/python" -m pytest -q -p no:cacheprovider "${tests[@]}" || failed=1
done
exit "$failed"
