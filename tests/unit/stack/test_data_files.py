"""Configuration and dashboards: written out for others, and the same in the clone and in the wheel."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from joulebench.errors import UserError
from joulebench.stack.data_files import data_names, data_path, write_data_files
from tests.contract.sources import DASHBOARDS, ROOT, RULES

MOST_BYTES = 1_500_000


def test_the_files_are_those_of_the_clone_and_are_not_written_over_changes(tmp_path: Path) -> None:
    written = write_data_files(tmp_path / "mine", overwrite=False)
    assert {path.relative_to(tmp_path / "mine").as_posix() for path in written} == set(data_names(ROOT))
    assert all(path.read_bytes() == (ROOT / path.relative_to(tmp_path / "mine")).read_bytes() for path in written)
    assert write_data_files(tmp_path / "mine", overwrite=False) == written, "the same files again are no conflict"
    prices = tmp_path / "mine/prometheus/prices.yml"
    prices.write_text("currency: EUR\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"other versions of prometheus/prices\.yml.*--force"):
        write_data_files(tmp_path / "mine", overwrite=False)
    assert prices.read_text(encoding="utf-8") == "currency: EUR\n"
    write_data_files(tmp_path / "mine", overwrite=True)
    assert prices.read_bytes() == data_path("prometheus/prices.yml").read_bytes()


def test_a_target_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match=r"cannot be written"):
        write_data_files(tmp_path / "file", overwrite=False)


def test_the_wheel_holds_every_file_and_stays_small(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    folder = "joulebench/stack/data/"
    with zipfile.ZipFile(wheel) as archive:
        packed = {name.removeprefix(folder): archive.read(name) for name in archive.namelist() if name.startswith(folder)}
        package = {name for name in archive.namelist() if name.startswith("joulebench/") and not name.startswith(folder)}
    assert packed == {name: (ROOT / name).read_bytes() for name in data_names(ROOT)}
    assert {path.relative_to(ROOT).as_posix() for path in (*DASHBOARDS, *RULES)} <= set(packed)
    sources = [path for path in (ROOT / "exporter/joulebench").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert package == {path.relative_to(ROOT / "exporter").as_posix() for path in sources}
    print(f"the wheel has {wheel.stat().st_size} bytes")  # noqa: T201
    assert wheel.stat().st_size < MOST_BYTES
