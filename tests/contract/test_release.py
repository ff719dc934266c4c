"""The version, the changelog and the papers of the house agree."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from joulebench import __version__
from tests.contract.sources import PACKAGE, ROOT
from tests.needs import need_check_jsonschema

CHANGELOG = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
VERSIONS = re.findall(r"^## \[(.+?)\]", CHANGELOG, flags=re.MULTILINE)


def test_the_version_is_the_newest_of_the_changelog() -> None:
    released = [version for version in VERSIONS if version != "Unreleased"]
    assert released, "CHANGELOG.md has no released version"
    assert released[0] == __version__


def test_every_room_has_its_line_in_the_architecture() -> None:
    text = (ROOT / "docs/ARCHITECTURE.md").read_text(encoding="utf-8")
    rooms = sorted(path.name for path in PACKAGE.iterdir() if path.is_dir() and (path / "__init__.py").exists())
    missing = [room for room in rooms if f"`{room}/`" not in text]
    assert not missing, f"docs/ARCHITECTURE.md does not name {', '.join(missing)}"


PAPERS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


@pytest.mark.parametrize("paper", PAPERS, ids=lambda path: path.name)
def test_every_relative_link_leads_somewhere(paper: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", paper.read_text(encoding="utf-8"))
    broken = [link for link in links if not (paper.parent / link).exists()]
    assert not broken, f"{paper.name} links to {', '.join(broken)}"


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        *(("vendor.github-workflows", path) for path in sorted(ROOT.glob(".github/workflows/*.yml"))),
        ("vendor.dependabot", ROOT / ".github/dependabot.yml"),
    ],
    ids=lambda value: value.name if isinstance(value, Path) else value,
)
def test_the_forges_configuration_follows_its_schema(schema: str, path: Path) -> None:
    done = subprocess.run(
        [need_check_jsonschema(), "--builtin-schema", schema, path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
