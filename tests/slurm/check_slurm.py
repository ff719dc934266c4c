"""A job array in a real Slurm (slurmctld, slurmd, sbatch), measured by deploy/slurm/joulebench-job on GPUs of known joules.

Slurm allocates the GPUs: device nodes without a driver are enough for it. Cgroups are not part of it, so no process of the job is
found by the exporter, and a job could use the GPUs of another. ``make test-slurm`` runs this, ``make test`` does not.
"""

from __future__ import annotations

import csv
import getpass
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from joulebench.clock import SystemClock, wait_until
from joulebench.results.export import Options, export
from joulebench.settings import NO_URL
from joulebench.stack.process import Program, free_port
from tests.contract.sources import ROOT
from tests.fakes import nvml

SLURM = ROOT / ".build/slurm"
LIBRARIES = SLURM / "usr/lib/x86_64-linux-gnu"
WATTS = (100.0, 150.0, 250.0, 350.0)
MEASURE = f"""
import os, threading
from joulebench import Run

with Run(model="m", run_id=os.environ["JOULEBENCH_RUN_ID"], gateway_url="{NO_URL}", prometheus_url="{NO_URL}") as run:
    with run.task("wait") as task:
        threading.Event().wait(2.0)
        task.succeed()
"""


@dataclass
class Cluster:
    """One node. ``environment``: of its programs and jobs."""

    directory: Path
    environment: Mapping[str, str]

    def run(self, program: str, *arguments: str) -> str:
        command = [str(SLURM / f"usr/bin/{program}"), *arguments]
        done = subprocess.run(command, env=dict(self.environment), capture_output=True, text=True, check=False, timeout=20)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout.strip()


def configuration(directory: Path) -> str:
    name = socket.gethostname().partition(".")[0]
    for folder in ("state", "spool", "devices"):
        (directory / folder).mkdir()
    for gpu in range(len(WATTS)):
        os.mknod(directory / f"devices/nvidia{gpu}", stat.S_IFCHR | 0o600, os.makedev(195, gpu))
    values = {
        "ClusterName": "test",
        "SlurmctldHost": f"{name}(127.0.0.1)",
        "SlurmUser": getpass.getuser(),
        "SlurmdUser": getpass.getuser(),
        "AuthType": "auth/none",
        "CredType": "cred/none",
        "PluginDir": LIBRARIES / "slurm-wlm",
        "SlurmctldPort": free_port(),
        "SlurmdPort": free_port(),
        "StateSaveLocation": directory / "state",
        "SlurmdSpoolDir": directory / "spool",
        "SlurmctldPidFile": directory / "slurmctld.pid",
        "SlurmdPidFile": directory / "slurmd.pid",
        "ProctrackType": "proctrack/linuxproc",
        "TaskPlugin": "task/none",
        "MpiDefault": "none",
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_Core",
        "GresTypes": "gpu",
        # More cores than the machine may have, so that both tasks of the array run at the same time.
        "SlurmdParameters": "config_overrides",
        "ReturnToService": 2,
    }
    cores = "CPUs=4 Sockets=1 CoresPerSocket=4 ThreadsPerCore=1"
    node = f"NodeName={name} NodeAddr=127.0.0.1 Gres=gpu:{len(WATTS)} {cores} RealMemory=500 State=UNKNOWN"
    lines = [f"{key}={value}" for key, value in values.items()]
    return "\n".join([*lines, node, "PartitionName=cards Nodes=ALL Default=YES State=UP", ""])


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if not (SLURM / "usr/sbin/slurmctld-wlm").exists():
        pytest.skip("Slurm is not there; 'make test-slurm' fetches it")
    if os.geteuid() != 0:
        pytest.skip("slurmd starts jobs of users, which needs root")
    directory = tmp_path_factory.mktemp("slurm")
    (directory / "slurm.conf").write_text(configuration(directory))
    (directory / "gres.conf").write_text(f"Name=gpu File={directory}/devices/nvidia[0-{len(WATTS) - 1}]\n")
    environment = {
        # sbatch passes it on; the addresses of the tests' conftest.py are none.
        **{name: value for name, value in os.environ.items() if not name.startswith("JOULEBENCH_")},
        "SLURM_CONF": str(directory / "slurm.conf"),
        "LD_LIBRARY_PATH": f"{LIBRARIES}:{LIBRARIES / 'slurm-wlm'}",
        "PATH": f"{SLURM / 'usr/bin'}:{os.environ['PATH']}",
    }
    made = Cluster(directory, environment)
    stepd = SLURM / "usr/sbin/slurmstepd-wlm"
    # Under any other name than these they ignore the GPUs of nodes; Debian's packages add "-wlm" to them.
    daemons = {"slurmctld": (), "slurmd": ("-d", str(stepd))}
    with ExitStack() as stack:
        for daemon, flags in daemons.items():
            log = stack.enter_context((directory / f"{daemon}.log").open("wb"))
            process = subprocess.Popen(
                [daemon, "-D", *flags], executable=SLURM / f"usr/sbin/{daemon}-wlm", env=environment, stdout=log, stderr=log
            )
            stack.callback(process.wait, 20)
            stack.callback(process.terminate)
        is_idle = wait_until(lambda: "idle" in made.run("sinfo", "--noheader", "--format=%T"), 20.0, interval=0.25)
        assert is_idle, (directory / "slurmd.log").read_text()[-2000:]
        yield made
        made.run("scancel", "--full", f"--user={getpass.getuser()}")


@pytest.fixture(scope="module")
def gpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[nvml.FakeGpuScript, int]]:
    """(script of four GPUs, port of their exporter)"""
    directory = tmp_path_factory.mktemp("exporter")
    cards = [nvml.FakeGpu(power=((0.0, watts),), phase=0.013 * (gpu + 1), uuid=f"GPU-{gpu}") for gpu, watts in enumerate(WATTS)]
    script = nvml.FakeGpuScript(cards)
    port = free_port()
    argv = [sys.executable, "-m", "joulebench.cli", "exporter", f"--web.listen-address=127.0.0.1:{port}", "--no-ollama"]
    environment = nvml.environment(script.write(directory / "gpus"))
    program = Program("exporter", argv, directory / "exporter.log", f"http://127.0.0.1:{port}/healthz", environment)
    program.start()
    yield script, port
    program.stop()


def test_two_tasks_of_an_array_are_workers_of_one_run_each_with_its_own_gpus(
    cluster: Cluster, gpus: tuple[nvml.FakeGpuScript, int], tmp_path: Path
) -> None:
    script, port = gpus
    (tmp_path / "measure.py").write_text(MEASURE)
    job = tmp_path / "job.sh"
    job.write_text(
        "#!/bin/bash\n"
        f"export JOULEBENCH_RUNS_DIR={tmp_path}/runs JOULEBENCH_EXPORTER_PORT={port}\n"
        f"echo $SLURM_JOB_GPUS $CUDA_VISIBLE_DEVICES > {tmp_path}/allocated-$SLURM_ARRAY_TASK_ID\n"
        f"{ROOT}/deploy/slurm/joulebench-job {sys.executable} {tmp_path}/measure.py\n"
    )
    wrap = ["--parsable", "--wait", "--array=0-1", "--gres=gpu:2", f"--output={tmp_path}/out-%a", str(job)]
    number = cluster.run("sbatch", *wrap)
    run_id = f"slurm-{number}"
    outputs = "".join(path.read_text() for path in tmp_path.glob("out-*"))
    assert (tmp_path / "runs" / run_id).is_dir(), outputs + str(list(tmp_path.glob("runs/*")))
    allocated = {path.read_text().strip() for path in tmp_path.glob("allocated-*")}
    assert allocated == {"0,1 0,1", "2,3 2,3"}, outputs
    export(Options(run_id, tmp_path / "runs"), None, SystemClock())
    with (tmp_path / "runs" / run_id / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len({row["worker"] for row in rows}) == 2, rows
    devices = {tuple(device.rpartition("/")[2] for device in row["devices"].split()): row for row in rows}
    assert set(devices) == {("GPU-0", "GPU-1"), ("GPU-2", "GPU-3")}
    for uuids, row in devices.items():
        start, end = float(row["start_timestamp_seconds"]), float(row["end_timestamp_seconds"])
        truth = sum(script.joules(int(uuid[-1]), start, end) for uuid in uuids)
        assert float(row["total_energy_joules"]) == pytest.approx(truth, rel=0.01)
        assert row["device_basis"] == "declared"
