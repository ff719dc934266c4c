"""Builds the fake library on demand. A build is cached under ``.build/`` by the hash of what goes into it.

The package ``amdsmi`` binds every function of its library when it is imported, so the fake has to export all of them: their names
and the structures are taken from the installed package. A function or a field that the fake plays and the package no longer has
makes the build fail.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.fakes.c_compiler import need_c_compiler
from tests.needs import missing

HERE = Path(__file__).parent
SOURCE, DESCRIBE = HERE / "fake_amdsmi.c", HERE / "describe.py"
CACHE = HERE.parents[2] / ".build" / "fake_amdsmi"
SCRIPT_VARIABLE, HOME_VARIABLE = "FAKE_AMDSMI_SCRIPT", "ROCM_HOME"
BOUND = re.compile(r"_libraries\['libamd_smi\.so'\]\.(\w+)")
PLAYED = re.compile(r"^int (amdsmi_\w+)\(", re.MULTILINE)
STRUCTURES = re.compile(r"\b(amdsmi_\w+_t)\b")


def wrapper_source() -> str:
    """The text of the package's ctypes layer, which is not imported for it."""
    found = importlib.util.find_spec("amdsmi")
    if found is None or not found.submodule_search_locations:
        missing("the package amdsmi is not installed; pip install 'joulebench[amd]' brings it")
    assert found is not None
    assert found.submodule_search_locations is not None
    return (Path(found.submodule_search_locations[0]) / "amdsmi_wrapper.py").read_text(encoding="utf-8")


def bound_names(wrapper: str) -> list[str]:
    """The functions that the package binds."""
    return list(dict.fromkeys(BOUND.findall(wrapper)))


def build(without: Sequence[str] = ()) -> Path:
    """The home of the library (``ROCM_HOME``), as an older ROCm ships it when ``without`` names functions to leave out."""
    wrapper, source = wrapper_source(), SOURCE.read_text(encoding="utf-8")
    names, played = bound_names(wrapper), PLAYED.findall(source)
    if unknown := sorted(set(played) - set(names)):
        raise AssertionError(f"the fake plays {', '.join(unknown)}, which the installed package amdsmi does not bind")
    parts = [wrapper, source, DESCRIBE.read_text(encoding="utf-8"), *sorted(without)]
    home = CACHE / hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    library = home / "lib/libamd_smi.so"
    if library.exists():
        return home
    draft = home / f"draft-{os.getpid()}"
    (draft / "lib").mkdir(parents=True, exist_ok=True)
    # The package can be imported with a library of nothing but names; then it knows its structures.
    stubs = draft / "stubs.c"
    stubs.write_text(_stubs(names), encoding="utf-8")
    _compile(stubs, draft / "lib/libamd_smi.so")
    structures = sorted(set(STRUCTURES.findall(source)))
    described = subprocess.run(
        [sys.executable, str(DESCRIBE), *structures],
        env={**os.environ, HOME_VARIABLE: str(draft)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    (draft / "amdsmi_structs.h").write_text(described, encoding="utf-8")
    (draft / "amdsmi_others.h").write_text(_stubs([name for name in names if name not in played]), encoding="utf-8")
    hidden = draft / "hidden.map"
    hidden.write_text("{ local: " + " ".join(f"{name};" for name in without) + " };\n", encoding="utf-8")
    options = [f"-Wl,--version-script={hidden}"] if without else []
    _compile(SOURCE, draft / "whole.so", f"-I{draft}", *options, "-Wall", "-Wextra", "-Werror")
    library.parent.mkdir(parents=True, exist_ok=True)
    # Moved into place, because several test processes may want it at once.
    (draft / "whole.so").replace(library)
    shutil.rmtree(draft)
    return home


def _stubs(names: Sequence[str]) -> str:
    return "\n".join(f"int {name}(void) {{ return 2; }}" for name in names) + "\n"


def _compile(source: Path, target: Path, *options: str) -> None:
    command = [*need_c_compiler(), "-O1", "-shared", "-fPIC", *options, "-o", str(target), str(source), "-lm", "-lpthread"]
    subprocess.run(command, check=True)


def environment(script: Path, without: Sequence[str] = ()) -> dict[str, str]:
    """Variables that make the package find this library, and the library play ``script``."""
    return {HOME_VARIABLE: str(build(without)), SCRIPT_VARIABLE: str(script)}
