"""Logs of a monitor, whole and broken: a cell without a reading is a gap, and power is integrated only between near samples."""

from __future__ import annotations

from pathlib import Path

import pytest

from joulebench import metrics
from joulebench.energy.window import window_energy
from joulebench.errors import UserError
from joulebench.mcpworld import telemetry

HEADER = "timestamp,gpu_util_pct,vram_mb,temp_c,power_w,container_cpu_pct,container_mem_mb\n"


def log(tmp_path: Path, text: str, header: str = HEADER) -> telemetry.MonitorLog:
    path = tmp_path / "gpu_metrics_x.csv"
    path.write_text(header + text)
    return telemetry.read_monitor_log(path)


def rows(start: float, count: int, watts: str = "100.0", step: float = 0.5) -> str:
    return "".join(f"{start + i * step},50,2048,40,{watts},,\n" for i in range(count))


def test_power_is_integrated_in_the_units_of_a_store(tmp_path: Path) -> None:
    (gpu,) = log(tmp_path, rows(1000.0, 41)).samples.gpus
    assert window_energy(gpu.energy, 1002.0, 1012.0, method="power_integration").joules == pytest.approx(1000.0)
    assert next(iter(gpu.gauges[metrics.GPU_UTILIZATION.name])) == (1000.0, 0.5)
    assert next(iter(gpu.gauges[metrics.GPU_MEMORY_USED.name])) == (1000.0, 2.0 * 2**30)
    assert gpu.source is None


def test_empty_cells_are_no_zero_watts(tmp_path: Path) -> None:
    text = rows(1000.0, 10) + rows(1005.0, 20, watts="") + rows(1015.0, 10)
    (gpu,) = log(tmp_path, text).samples.gpus
    assert len(gpu.gauges[metrics.GPU_POWER.name]) == 20
    assert window_energy(gpu.energy, 1000.0, 1019.0, method="power_integration").joules is None
    inside = window_energy(gpu.energy, 1015.5, 1018.5, method="power_integration")
    assert inside.joules == pytest.approx(300.0)


def test_a_gap_at_rest_is_a_gap_too(tmp_path: Path) -> None:
    (gpu,) = log(tmp_path, rows(1000.0, 4, watts="0.0") + rows(1100.0, 4, watts="0.0")).samples.gpus
    assert len(gpu.energy.epoch_starts) == 1


def test_torn_and_strange_lines_are_left_out(tmp_path: Path) -> None:
    text = rows(1000.0, 4) + HEADER + "garbage\n" + "\0\0\0\n" + "1002.0,50,2048,40,[N/A],,\n" + "1002.5,50,2048,40,12"
    found = log(tmp_path, text)
    assert found.times == [1000.0, 1000.5, 1001.0, 1001.5, 1002.0]
    assert found.damaged == 1
    assert len(found.samples.gpus[0].gauges[metrics.GPU_POWER.name]) == 4


def test_times_may_be_iso(tmp_path: Path) -> None:
    found = log(tmp_path, "2023-11-14T22:13:20Z,1,1,1,1,,\n2023-11-14T22:13:20.500+00:00,1,1,1,1,,\n")
    assert found.times == [1_700_000_000.0, 1_700_000_000.5]


def test_a_host_without_gpu_still_tells_of_its_container(tmp_path: Path) -> None:
    found = log(tmp_path, "1000,,,,,12.5,100\n1001,,,,,,\n1002,,,,,13.5,101\n")
    assert found.samples.gpus == []
    assert list(found.container_cpu) == [(1000.0, 12.5), (1002.0, 13.5)]


def test_counter_columns_are_the_energy_of_each_gpu(tmp_path: Path) -> None:
    columns = ",".join(f"gpu{i}_{name}" for i in (0, 1) for name in telemetry.GPU_COLUMNS)
    text = ""
    for i in range(41):
        at = 1000 + i / 4
        cells = [f"GPU-{g},50,2048,40,{100 * (g + 1)},{500 + (g + 1) * 100 * i / 4},{at - 0.05},0.01" for g in (0, 1)]
        text += f"{at},50,4096,40,300,,,{','.join(cells)}\n"
    found = log(tmp_path, text, HEADER.strip() + "," + columns + "\n")
    assert [(gpu.uuid, gpu.method, gpu.source) for gpu in found.samples.gpus] == [
        ("GPU-0", "counter", "nvml"),
        ("GPU-1", "counter", "nvml"),
    ]
    assert window_energy(found.samples.gpus[1].energy, 1002.0, 1008.0).joules == pytest.approx(1200.0, rel=1e-3)


def test_an_invented_gpu_says_so(tmp_path: Path) -> None:
    found = log(tmp_path, "1000,1,1,1,1,,,simulated\n", HEADER.strip() + ",gpu_source\n")
    assert found.samples.gpus[0].source == "simulated"


def test_what_is_no_log_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no column timestamp"):
        log(tmp_path, "1,2\n", "a,b\n")
    with pytest.raises(UserError, match="cannot be read"):
        telemetry.read_monitor_log(tmp_path / "none.csv")


LOG = HEADER + rows(1000.0, 6)


@pytest.mark.parametrize(
    "content",
    [
        LOG.encode(),
        LOG.encode("utf-8-sig"),
        LOG.encode("utf-16"),
        LOG.replace(",", ";").encode(),
        LOG.replace("\n", "\r\n").encode(),
    ],
    ids=["plain", "byte order mark", "UTF-16", "semicolons", "CRLF"],
)
def test_a_log_that_a_spreadsheet_saved_reads_like_the_original(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "gpu_metrics_x.csv"
    path.write_bytes(content)
    read = telemetry.read_monitor_log(path)
    assert (len(read.times), read.damaged) == (6, 0)
    assert len(read.samples.gpus[0].gauges[metrics.GPU_POWER.name]) == 6


def test_utf_16_without_its_mark_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "gpu_metrics_x.csv"
    path.write_bytes(LOG.encode("utf-16-le"))
    with pytest.raises(UserError, match="looks like UTF-16 without a byte order mark"):
        telemetry.read_monitor_log(path)
