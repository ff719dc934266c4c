"""The GGUF file of a model: a path, or the name of a model that Ollama has installed on this machine. Only read."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from joulebench.errors import UserError

MAGIC = b"GGUF"
MODEL_LAYER = "application/vnd.ollama.image.model"
USUAL_PLACES = ("~/.ollama/models", "/usr/share/ollama/.ollama/models", "/var/lib/ollama/.ollama/models")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def model_file(model: str, environ: Mapping[str, str] = os.environ) -> Path:
    """Raises UserError where there is no such file, no such installed model, or what is there is no GGUF file."""
    path = Path(model)
    named_as_a_file = path.suffix == ".gguf" or model.startswith((".", "/", "~"))
    if not path.is_file() and not named_as_a_file:
        path = _of_ollama(model, environ)
    return _checked(path.expanduser())


def _checked(path: Path) -> Path:
    try:
        with path.open("rb") as file:
            begin = file.read(len(MAGIC))
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); give a GGUF file or the name of a model of Ollama"
        ) from error
    if begin != MAGIC:
        shown = f"it begins with {begin!r}" if begin else "it is empty"
        raise UserError(f"{path}: no GGUF file ({shown}); give one, or the name of a model of Ollama")
    return path


def _of_ollama(name: str, environ: Mapping[str, str]) -> Path:
    stores = [Path(environ["OLLAMA_MODELS"])] if environ.get("OLLAMA_MODELS") else [Path(p).expanduser() for p in USUAL_PLACES]
    for store in stores:
        for manifest in _manifests(store / "manifests", name):
            return _blob(store, manifest, name)
    installed = sorted({known for store in stores for known in _installed(store / "manifests")})
    have = f"installed are {', '.join(installed[:20])}" if installed else "none is installed"
    looked = " and ".join(map(str, stores))
    raise UserError(f"{name}: neither a file nor a model of Ollama in {looked}; {have}. OLLAMA_MODELS names another folder")


def _manifests(root: Path, name: str) -> Iterator[Path]:
    """``[host/][namespace/]model[:tag]``, in the folders that Ollama keeps in this order."""
    *before, last = name.split("/")
    model, _, tag = last.partition(":")
    if not model or len(before) > 2 or any(part in ("", ".", "..") or set(part) & set("*?[\\\0") for part in (*before, model)):
        return
    host, namespace = [*("*", "library")[: 2 - len(before)], *before]
    if root.is_dir():
        yield from sorted(path for path in root.glob(f"{host}/{namespace}/{model}/*") if path.name == (tag or "latest"))


def _installed(root: Path) -> Iterator[str]:
    if root.is_dir():
        for path in root.glob("*/*/*/*"):
            _, namespace, model, tag = path.relative_to(root).parts
            yield f"{model}:{tag}" if namespace == "library" else f"{namespace}/{model}:{tag}"


def _blob(store: Path, manifest: Path, name: str) -> Path:
    try:
        layers = json.loads(manifest.read_text(encoding="utf-8"))["layers"]
        (digest,) = [str(layer["digest"]) for layer in layers if layer["mediaType"] == MODEL_LAYER]
        if not _DIGEST.fullmatch(digest):
            raise ValueError(f"digest {digest!r}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{name}: {manifest} names no single model file ({error}); pull the model again") from error
    return store / "blobs" / digest.replace(":", "-")
