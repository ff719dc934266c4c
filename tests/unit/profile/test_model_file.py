"""A model file by path, or by the name that Ollama knows it by, in a store laid out as Ollama lays it out."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from joulebench import cli
from joulebench.errors import UserError
from joulebench.profile.model_file import model_file

DIGEST = "sha256:" + "ab" * 32


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "models"


def install(store: Path, where: str, digest: str = DIGEST, kind: str = "application/vnd.ollama.image.model") -> Path:
    manifest = store / "manifests" / where
    manifest.parent.mkdir(parents=True)
    template = {"mediaType": "application/vnd.ollama.image.template", "digest": "sha256:" + "cd" * 32, "size": 3}
    manifest.write_text(json.dumps({"schemaVersion": 2, "layers": [template, {"mediaType": kind, "digest": digest, "size": 8}]}))
    blob = store / "blobs" / digest.replace(":", "-")
    blob.parent.mkdir(exist_ok=True)
    blob.write_bytes(b"GGUF\x03\0\0\0")
    return blob


@pytest.mark.parametrize(
    ("where", "name"),
    [
        ("some.host/library/qwen3/8b", "qwen3:8b"),
        ("some.host/library/qwen3/latest", "qwen3"),
        ("some.host/somebody/qwen3/8b", "somebody/qwen3:8b"),
        ("hf.co/somebody/Qwen3-GGUF/Q4_K_M", "hf.co/somebody/Qwen3-GGUF:Q4_K_M"),
    ],
)
def test_the_blob_of_an_installed_model_is_found(store: Path, where: str, name: str) -> None:
    blob = install(store, where)
    assert model_file(name, {"OLLAMA_MODELS": str(store)}) == blob


def test_the_usual_folder_is_searched(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    blob = install(tmp_path / ".ollama/models", "some.host/library/qwen3/8b")
    assert model_file("qwen3:8b", {}) == blob


def test_an_unknown_name_tells_what_is_installed(store: Path) -> None:
    install(store, "some.host/library/qwen3/8b")
    with pytest.raises(
        UserError, match=r"qwen3:14b: neither a file nor a model of Ollama .*; installed are qwen3:8b\. OLLAMA_MODELS"
    ):
        model_file("qwen3:14b", {"OLLAMA_MODELS": str(store)})


@pytest.mark.parametrize("name", ["", "*", "a/b/c/d", "../qwen3", "qw*n3:8b", "x\0y"])
def test_a_name_that_is_none_finds_nothing(store: Path, name: str) -> None:
    install(store, "some.host/library/qwen3/8b")
    with pytest.raises(UserError):
        model_file(name, {"OLLAMA_MODELS": str(store)})


@pytest.mark.parametrize(("digest", "kind"), [("sha256:../../etc", "application/vnd.ollama.image.model"), (DIGEST, "another")])
def test_a_manifest_without_a_model_says_so(store: Path, digest: str, kind: str) -> None:
    manifest = store / "manifests/some.host/library/qwen3/8b"
    manifest.parent.mkdir(parents=True)
    manifest.write_text(json.dumps({"layers": [{"mediaType": kind, "digest": digest}]}))
    with pytest.raises(UserError, match="pull the model again"):
        model_file("qwen3:8b", {"OLLAMA_MODELS": str(store)})


@pytest.mark.parametrize(
    ("content", "saw"), [(b"", "it is empty"), (b"PK\x03\x04rest", "it begins with"), (None, "cannot be read")]
)
def test_what_is_no_gguf_file_is_refused(tmp_path: Path, content: bytes | None, saw: str) -> None:
    path = tmp_path / "model.gguf"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=saw):
        model_file(str(path))


def test_a_missing_extra_names_the_package_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF")
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    assert cli.main(["profile", str(path)]) == 2
    assert "pip install 'joulebench[profile]'" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--repeat", "--prompt-tokens", "--decode-tokens", "--threads"])
def test_a_number_that_is_none_is_refused(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["profile", "x.gguf", flag, "0"]) == 2
    assert flag in capsys.readouterr().err
