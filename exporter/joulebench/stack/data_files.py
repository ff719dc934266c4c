"""The configuration that the stack starts with, and the dashboards: package data of an installed Joulebench, the top-level
folders ``prometheus/`` and ``dashboards/`` in a clone."""

from __future__ import annotations

import filecmp
import shutil
from collections.abc import Iterator
from pathlib import Path

from joulebench.errors import UserError

PACKAGED = Path(__file__).resolve().with_name("data")
CHECKOUT = Path(__file__).resolve().parents[3]
PATTERNS = (
    "prometheus/*.yml",
    "prometheus/rules/*.yml",
    "prometheus/RUNBOOK.md",
    "dashboards/*.json",
    "dashboards/README.md",
    "dashboards/provisioning/*/*.yml",
)
"""What the wheel holds of the two folders, and ``joulebench stack files`` writes. pyproject.toml names the same files."""


def data_root() -> Path:
    """The folder that holds ``prometheus`` and ``dashboards``. Raises UserError where an installation has lost them."""
    for root in (PACKAGED, CHECKOUT):
        if (root / "prometheus/prometheus.yml").is_file():
            return root
    raise UserError(f"{PACKAGED} is missing; install Joulebench again: pip install --force-reinstall joulebench")


def data_path(relative: str) -> Path:
    """A file or folder of the configuration, such as ``prometheus/rules``. Raises UserError where it is missing."""
    path = data_root() / relative
    if not path.exists():
        raise UserError(f"{path} is missing; install Joulebench again: pip install --force-reinstall joulebench")
    return path


def data_names(root: Path) -> Iterator[str]:
    """The files below ``root`` that ``PATTERNS`` match, as relative paths in order."""
    for pattern in PATTERNS:
        for path in sorted(root.glob(pattern)):
            yield path.relative_to(root).as_posix()


def write_data_files(target: Path, *, overwrite: bool) -> list[Path]:
    """Copy all of them below ``target`` and return the copies. Raises UserError, before anything is written, where a file there
    differs and ``overwrite`` is not set."""
    root = data_root()
    names = list(data_names(root))
    changed = [name for name in names if (target / name).exists() and not filecmp.cmp(root / name, target / name, shallow=False)]
    if changed and not overwrite:
        raise UserError(f"{target} has other versions of {', '.join(changed)}; give another folder, or --force to replace them")
    try:
        for name in names:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / name, target / name)
    except OSError as error:
        raise UserError(f"{error.filename} cannot be written ({error.strerror}); give another folder") from error
    return [target / name for name in names]
