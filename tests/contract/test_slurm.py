"""deploy/slurm/joulebench-job: what it sets within a job, and what it says outside of one."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.contract.sources import ROOT

SCRIPT = ROOT / "deploy/slurm/joulebench-job"
JOB = {"SLURM_JOB_ID": "42", "SLURM_JOB_NODELIST": "gpu[1-2]", "SLURMD_NODENAME": "gpu1", "SLURM_JOB_PARTITION": "a100"}


@pytest.fixture
def bin_directory(tmp_path: Path) -> Path:
    """With a scontrol that knows one list of nodes."""
    scontrol = tmp_path / "scontrol"
    scontrol.write_text('#!/bin/sh\n[ "$*" = "show hostnames gpu[1-2]" ] || exit 1\nprintf "gpu1\\ngpu2\\n"\n')
    scontrol.chmod(0o755)
    return tmp_path


def run(bin_directory: Path, environment: dict[str, str], *command: str) -> subprocess.CompletedProcess[str]:
    path = f"{bin_directory}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [SCRIPT, *command], env={"PATH": path, **environment}, capture_output=True, text=True, check=False, timeout=10
    )


def test_a_job_gets_the_exporters_of_its_nodes_and_its_identity(bin_directory: Path) -> None:
    done = run(bin_directory, JOB)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        r"JOULEBENCH_EXPORTER_URL=http://127.0.0.1:18347\,http://gpu2:18347",
        "JOULEBENCH_RUN_ID=slurm-42",
        "INFRASTRUCTURE_TAG=slurm/a100",
    ]


def test_tasks_of_an_array_are_workers_of_one_run_and_what_is_set_stays(bin_directory: Path) -> None:
    set_already = {"JOULEBENCH_EXPORTER_URL": "http://a:1", "INFRASTRUCTURE_TAG": "mine", "SLURM_ARRAY_JOB_ID": "40"}
    done = run(
        bin_directory,
        {**JOB, **set_already},
        "sh",
        "-c",
        'echo "$JOULEBENCH_RUN_ID $JOULEBENCH_EXPORTER_URL $INFRASTRUCTURE_TAG"; exit 3',
    )
    assert (done.returncode, done.stdout) == (3, "slurm-40 http://a:1 mine\n")


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "SLURM_JOB_ID is not set; run it within a job"),
        (
            {**JOB, "SLURM_JOB_NODELIST": "gpu[1-"},
            "scontrol cannot expand SLURM_JOB_NODELIST=gpu[1-; set JOULEBENCH_EXPORTER_URL",
        ),
        ({"SLURM_JOB_ID": "42"}, "set JOULEBENCH_EXPORTER_URL"),
    ],
)
def test_what_is_missing_is_said_with_what_to_do(bin_directory: Path, environment: dict[str, str], message: str) -> None:
    done = run(bin_directory, environment, "true")
    assert done.returncode == 2
    assert message in done.stderr
