"""Builds the fake library on demand and gets it loaded. A build is cached under ``.build/`` by the hash of what goes into it."""

from __future__ import annotations

import ctypes
import hashlib
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.fakes.c_compiler import need_c_compiler

SOURCE = Path(__file__).with_name("fake_nvml.c")
CACHE = Path(__file__).resolve().parents[3] / ".build" / "fake_nvml"
SONAME = "libnvidia-ml.so.1"
SCRIPT_VARIABLE = "FAKE_NVML_SCRIPT"


def build(without: Sequence[str] = ()) -> Path:
    """The library, as an older driver ships it when ``without`` names symbols to leave out."""
    key = hashlib.sha256(SOURCE.read_bytes() + "\0".join(sorted(without)).encode()).hexdigest()[:16]
    directory = CACHE / key
    library = directory / SONAME
    if library.exists():
        return library
    directory.mkdir(parents=True, exist_ok=True)
    # Built aside and moved into place, because several test processes may want it at once.
    draft = directory / f"draft-{os.getpid()}.so"
    command = [
        *need_c_compiler(),
        "-O2",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-shared",
        "-fPIC",
        f"-Wl,-soname,{SONAME}",
        "-o",
        str(draft),
    ]
    if without:
        hidden = directory / f"hidden-{os.getpid()}.map"
        hidden.write_text("{ local: " + " ".join(f"{name};" for name in without) + " };\n")
        command.append(f"-Wl,--version-script={hidden}")
    subprocess.run([*command, str(SOURCE), "-lm", "-lpthread"], check=True)
    draft.replace(library)
    return library


def environment(script: Path, without: Sequence[str] = ()) -> dict[str, str]:
    """Variables that make a subprocess find this library and play ``script``."""
    return {"LD_LIBRARY_PATH": str(build(without).parent), SCRIPT_VARIABLE: str(script)}


def load() -> ctypes.CDLL:
    """The full library in this process: the loader then gives the same one to whoever asks for its SONAME."""
    return ctypes.CDLL(str(build()), mode=ctypes.RTLD_GLOBAL)


def calls(function: str, gpu: int) -> int:
    """How often ``function`` was called on ``gpu`` in this process since the scenario was read."""
    count = load().fakeNvmlCalls
    count.restype = ctypes.c_long
    answer = int(count(function.encode(), gpu))
    if answer < 0:
        raise KeyError(f"{function} on GPU {gpu}: the fake library has no such function or GPU")
    return answer
