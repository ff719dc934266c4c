"""The service unit of the exporter: systemd accepts it, its hardening holds, and what it starts exists."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from joulebench import cli
from tests.contract.sources import ROOT

UNIT = ROOT / "deploy/systemd/joulebench-exporter.service"
INSTALLED = "/opt/joulebench/bin/joulebench"
MOST_EXPOSED = 20
"""Of systemd's scale of 0 (safe) to 100 (exposed)."""


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit with a program that exists on this machine: systemd checks that, too."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text(encoding="utf-8").replace(INSTALLED, sys.executable), encoding="utf-8")
    return copy


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, check=False)


def test_systemd_accepts_the_unit_without_a_warning(unit: Path) -> None:
    done = analyze("verify", str(unit))
    # It loads the units of the machine as well, and warns of what is wrong with those.
    warnings = [line for line in done.stderr.splitlines() if unit.name in line]
    assert (warnings, done.returncode) == ([], 0), done.stderr


def test_the_service_is_as_little_exposed_as_it_says(unit: Path) -> None:
    done = analyze("security", "--offline=true", f"--threshold={MOST_EXPOSED}", "--no-pager", str(unit))
    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd cannot look at a file")
    assert done.returncode == 0, done.stdout[-400:] + done.stderr


def test_it_runs_without_a_user_of_its_own_without_capabilities_and_cannot_write() -> None:
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(UNIT, encoding="utf-8")
    service = parser["Service"]
    wanted = {"DynamicUser": "yes", "ProtectSystem": "strict", "NoNewPrivileges": "yes", "CapabilityBoundingSet": ""}
    assert {name: service[name] for name in wanted} == wanted


def test_it_starts_a_command_that_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    command = re.search(rf"^ExecStart={INSTALLED} (\S+)", UNIT.read_text(encoding="utf-8"), re.MULTILINE)
    assert command is not None
    assert cli.main([command[1], "--help"]) == 0
    assert "--web.listen-address" in capsys.readouterr().out


def test_the_drop_in_for_rapl_gives_the_group_that_the_udev_rule_lets_read() -> None:
    drop_in = (UNIT.parent / f"{UNIT.name}.d/rapl.conf").read_text(encoding="utf-8")
    (group,) = re.findall(r"^SupplementaryGroups=(\S+)$", drop_in, re.MULTILINE)
    rule = (ROOT / "deploy/udev/60-joulebench-rapl.rules").read_text(encoding="utf-8")
    assert f'RUN+="/bin/chgrp {group} /sys%p/energy_uj"' in rule
    assert f"groupadd --system {group}" in (ROOT / "docs/METERS.md").read_text(encoding="utf-8")
