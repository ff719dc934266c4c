"""Which source of GPU readings is opened: NVML, AMD SMI or the simulation, by the name that the options take."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from joulebench.errors import GpuUnavailable, UserError
from joulebench.metrics import GPU_SOURCES

if TYPE_CHECKING:
    from joulebench.gpu.amd import AmdSource
    from joulebench.gpu.nvml import NvmlSource

log = logging.getLogger(__name__)

AUTO = "auto"
NVML, AMD, SIMULATED = GPU_SOURCES
CHOICES = (AUTO, *GPU_SOURCES)
"""Values of ``--gpu-source``. ``auto``: NVML where it has a GPU, else AMD SMI."""
AUTO_HELP = "auto: NVML, else AMD SMI"

DRM = Path("/sys/class/drm")
AMD_VENDOR = "0x1002"
LEAST_VRAM = 2 << 30
"""Bytes; the graphics of a CPU keep less for themselves, and are no GPU that a model runs on."""


def open_measured_source(wanted: str, drm: Path = DRM) -> NvmlSource | AmdSource:
    """Opens ``nvml`` or ``amd``; ``auto`` takes NVML where it has a GPU, else AMD SMI, and logs what it leaves unmeasured.

    Raises GpuUnavailable with a reason that says what to do, and UserError where the library of ``amd`` is not installed.
    """
    from joulebench.gpu.nvml import NvmlSource

    if wanted == AMD:
        return _open_named_amd()
    try:
        source = NvmlSource()
    except GpuUnavailable as error:
        if wanted == NVML:
            raise
        return _open_amd_instead(error, drm)
    if wanted == AUTO and (count := count_amd_gpus(drm)):
        log.warning(
            "AMD GPUs that are not measured: %d; NVML has GPUs too, and goes first. A second exporter with --gpu-source %s, on"
            " another port, measures them",
            count,
            AMD,
        )
    return source


def open_or_await_source(wanted: str, drm: Path = DRM) -> NvmlSource | AmdSource:
    """As ``open_measured_source``; but ``auto`` returns a source without GPUs, which finds a driver or GPU that comes later."""
    try:
        return open_measured_source(wanted, drm)
    except GpuUnavailable as error:
        if wanted != AUTO:
            raise
        log.warning("no GPU metrics: %s; looking again from time to time", error)
    if count_amd_gpus(drm):
        from joulebench.gpu.amd import AmdSource

        return AmdSource(required=False)
    from joulebench.gpu.nvml import NvmlSource

    return NvmlSource(required=False)


def _open_named_amd() -> AmdSource:
    """Raises UserError where the package or the library is not installed, and GpuUnavailable without a driver or GPU."""
    from joulebench.gpu.amd import AmdSource, load_binding

    try:
        load_binding()
    except GpuUnavailable as error:
        raise UserError(f"--gpu-source {AMD}: {error}") from error
    return AmdSource()


def _open_amd_instead(nvml_error: GpuUnavailable, drm: Path) -> AmdSource:
    """Raises GpuUnavailable: with the reason of AMD SMI too where the kernel has an AMD GPU."""
    from joulebench.gpu.amd import AmdSource

    try:
        return AmdSource()
    except GpuUnavailable as error:
        count = count_amd_gpus(drm)
        raise GpuUnavailable(f"{nvml_error}; AMD GPUs: {count}, but {error}" if count else str(nvml_error)) from error


def count_amd_gpus(drm: Path = DRM) -> int:
    """AMD GPUs with memory of their own that the kernel's module amdgpu drives, whatever library is installed."""
    count = 0
    for card in drm.glob("card[0-9]*/device"):
        try:
            vendor = (card / "vendor").read_text().strip()
            vram = int((card / "mem_info_vram_total").read_text())
        except (OSError, ValueError):
            continue
        # Connectors of a card are listed beside it, as card0-DP-1.
        count += vendor == AMD_VENDOR and vram >= LEAST_VRAM and "-" not in card.parent.name
    return count
