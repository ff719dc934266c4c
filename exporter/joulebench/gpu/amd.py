"""AMD GPUs through AMD SMI: the only file that imports its binding, the package ``amdsmi``, and the source of all its GPUs.

A counter read is one ``amdsmi_get_gpu_metrics_info`` call, which has the energy accumulator, the power and the residencies of
throttling. The ctypes layer of the package is asked, not its dictionaries: these turn the throttle bits into a truth value, and
only some unknown values into text. A value of all ones is unknown. Never run on a card: the tests play a library of known joules.
Sources: amdsmi.h of ROCm 7.0; kgd_pp_interface.h and amdgpu_smu.h of Linux (units of gpu_metrics, throttle bits).
"""

from __future__ import annotations

import ctypes
import io
import logging
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from importlib import metadata
from typing import Any

from joulebench.errors import GpuError, GpuLost, GpuUnavailable
from joulebench.gpu.reading import CounterReading, GpuIdentity, ProcessUse, StateReading
from joulebench.units import Bytes, Celsius, Hertz, Joules, Seconds, Watts, hertz_from_megahertz, ratio_from_percent

log = logging.getLogger(__name__)

SUCCESS, OUT_OF_RESOURCES = 0, 15
LOST_CODES = frozenset({31, 32, 34})
"""Not found, not initialized, driver not loaded."""
NOT_AVAILABLE_CODES = frozenset({1, 2, 3, 10, 40, 52, 55})
"""Invalid, not supported, not implemented, no permission, no data, no such file, setting unavailable: there is no such value."""
ERROR_ADVICE: Mapping[int, str] = {
    6: "see whether /dev/dri has a render node that this user may open; the groups render and video usually have it",
    10: "this user may not ask that; add it to the groups render and video, and give a container /dev/kfd and /dev/dri",
    14: "see whether /dev/dri and /dev/kfd are there; a container needs them as devices",
    34: "the kernel module amdgpu is not loaded; see lsmod and dmesg",
}
INIT_AMD_GPUS = 2
UNKNOWN = frozenset({0xFFFF, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF})
"""All ones in 16, 32 or 64 bits, by which the library says that there is no value, whatever the width of the field."""

JOULES_PER_COUNT = 2.0**-16
"""Unit of the energy accumulator by the kernel, 15.259 uJ."""
ROUNDED_TO = 0.01
"""The library rounds that unit to 15.3 uJ: a resolution this near to it is taken for it."""
PROBES = 3
"""Times that a call is tried before it counts as unsupported."""
PEAK_FACTOR = 1.5
"""Head-room above the highest power cap, for peaks that the limiter lets through."""
LARGEST_CAP_WATTS = 5000
"""A power cap above it is in microwatts, as on bare metal; on the host of virtual machines it is in watts."""
FIRST_PROCESSES = 128
MEAN_POWER_SECONDS = Seconds(1.0)

_POWER_BITS, _CURRENT_BITS, _TEMPERATURE_BITS, _HARDWARE_BITS = (range(8), range(16, 24), range(32, 44), range(44, 48))
REASON_BITS: Mapping[str, int] = {
    "sw_power_cap": sum(1 << bit for bit in (*_POWER_BITS, *_CURRENT_BITS)),
    "sw_thermal": sum(1 << bit for bit in _TEMPERATURE_BITS),
    "hw_thermal": sum(1 << bit for bit in _HARDWARE_BITS),
}
"""``indep_throttle_status``: power and current limits, temperatures, and hot voltage regulators and PROCHOT."""
RESIDENCIES: Mapping[str, tuple[str, ...]] = {
    "sw_power_cap": ("ppt_residency_acc",),
    "sw_thermal": ("socket_thm_residency_acc", "vr_thm_residency_acc", "hbm_thm_residency_acc"),
    "hw_thermal": ("prochot_residency_acc",),
}
"""Accumulators of gpu_metrics by reason, in ticks of ``accumulation_counter``; of several the one that grew most counts."""


def load_binding() -> Any:
    """The ctypes layer of ``amdsmi``. Raises GpuUnavailable with a reason that says what to do."""
    printed = io.StringIO()
    try:
        # It prints why the library cannot be loaded, and fails at its first use.
        with redirect_stdout(printed):
            from amdsmi import amdsmi_wrapper
    except KeyError as error:
        why = (printed.getvalue().splitlines() or ["no such library"])[0]
        raise GpuUnavailable(
            f"AMD's library libamd_smi.so cannot be loaded ({why}): install ROCm's package amd-smi-lib, and set ROCM_PATH where"
            " ROCm is not in /opt/rocm"
        ) from error
    except AttributeError as error:
        raise GpuUnavailable(
            f"the package amdsmi {_binding_version()} does not fit libamd_smi.so ({error}): install the package of this ROCm:"
            " pip install /opt/rocm/share/amd_smi"
        ) from error
    except ModuleNotFoundError as error:
        raise GpuUnavailable(
            "the package amdsmi is not installed; run: pip install 'joulebench[amd]', or take that of ROCm:"
            " pip install /opt/rocm/share/amd_smi"
        ) from error
    except Exception as error:
        raise GpuUnavailable(f"the package amdsmi {_binding_version()} cannot be imported: {error}") from error
    return amdsmi_wrapper


def _binding_version() -> str:
    try:
        return metadata.version("amdsmi")
    except metadata.PackageNotFoundError:
        return "(unknown version)"


class AmdSmiLibrary:
    """libamd_smi.so, initialized. Raises GpuUnavailable with a reason that says what to do.

    It is never shut down while devices are in use: their handles point into its memory.
    """

    def __init__(self) -> None:
        self.binding = load_binding()
        code = self.binding.amdsmi_init(INIT_AMD_GPUS)
        if code:
            raise GpuUnavailable(f"AMD SMI does not start: {self.text(code)}")

    def close(self) -> None:
        self.binding.amdsmi_shut_down()

    def call(self, function: str, *arguments: Any) -> int:
        """The status code; 2 (not supported) where this package lacks the function."""
        own = getattr(self.binding, function, None)
        return 2 if own is None else int(own(*arguments))

    def text(self, code: int) -> str:
        """AMD's name of a status code, and what to do about it."""
        names: Mapping[int, str] = getattr(self.binding, "amdsmi_status_t__enumvalues", {})
        words = f"{names.get(code, 'unknown status')} ({code})"
        return f"{words}: {ERROR_ADVICE[code]}" if code in ERROR_ADVICE else words

    def handles(self) -> list[Any]:
        """The first processor of each socket: in a partitioned GPU the others are parts with the same energy."""
        sockets = self._list("amdsmi_get_socket_handles", self.binding.amdsmi_socket_handle)
        first = []
        for socket in sockets:
            own = self._list("amdsmi_get_processor_handles", self.binding.amdsmi_processor_handle, socket)
            first += own[:1]
        return first

    def _list(self, function: str, kind: Any, *arguments: Any) -> list[Any]:
        count = ctypes.c_uint32(0)
        code = self.call(function, *arguments, ctypes.byref(count), None)
        found = (kind * count.value)()
        if not code and count.value:
            code = self.call(function, *arguments, ctypes.byref(count), found)
        if code:
            raise GpuUnavailable(f"AMD SMI runs but cannot list its GPUs: {function}: {self.text(code)}")
        return [kind(found[place]) for place in range(min(count.value, len(found)))]


class AmdDevice:
    """A ``GpuDevice``. The constructor raises GpuError where the library cannot name the GPU."""

    def __init__(self, library: AmdSmiLibrary, handle: Any, index: int) -> None:
        self._library, self._handle = library, handle
        binding = library.binding
        uuid = ctypes.create_string_buffer(getattr(binding, "AMDSMI_GPU_UUID_SIZE", 38))
        length = ctypes.c_uint32(len(uuid))
        self._raise_for_code("amdsmi_get_gpu_device_uuid", self._call("amdsmi_get_gpu_device_uuid", ctypes.byref(length), uuid))
        if not uuid.value:
            raise GpuError("amdsmi_get_gpu_device_uuid: the GPU has no UUID")
        asic = self._struct("amdsmi_get_gpu_asic_info", "amdsmi_asic_info_t")
        driver = self._struct("amdsmi_get_gpu_driver_info", "amdsmi_driver_info_t")
        target = _known(getattr(asic, "target_graphics_version", None))
        self.identity = GpuIdentity(
            index=index,
            uuid=uuid.value.decode(errors="replace"),
            name=_text(asic, "market_name"),
            architecture=f"gfx{target:x}" if target else "unknown",
            driver_version=_text(driver, "driver_version"),
            source=AmdSource.name,
        )
        self.power_ceiling = self._read_power_ceiling()
        self._joules_per_count = self._read_resolution()
        self._metrics = binding.amdsmi_gpu_metrics_t()
        self._has_metrics = self._probe("amdsmi_get_gpu_metrics_info", self._metrics)
        self._residency = _Residency()
        self._gives_mean_power = False
        self._active: Mapping[str, bool] = {}
        self._critical: dict[int, int] = {}
        self._processes = (binding.amdsmi_proc_info_t * FIRST_PROCESSES)()
        self.process_names: dict[int, str] = {}

    @property
    def power_averaging(self) -> Seconds:
        """How long older cards average is not documented; about a second."""
        return MEAN_POWER_SECONDS if self._gives_mean_power else Seconds(0.0)

    def rename(self, uuid: str) -> None:
        self.identity = replace(self.identity, uuid=uuid)

    def bus_address(self) -> str:
        """As 0000:03:00.0; empty where it is unknown."""
        bdf = self._struct("amdsmi_get_gpu_device_bdf", "amdsmi_bdf_t")
        parts = None if bdf is None else getattr(bdf, "bdf", bdf)
        if parts is None or not hasattr(parts, "domain_number"):
            return ""
        return f"{parts.domain_number:04x}:{parts.bus_number:02x}:{parts.device_number:02x}.{parts.function_number:x}"

    def _call(self, function: str, *arguments: Any) -> int:
        return self._library.call(function, self._handle, *arguments)

    def _struct(self, function: str, kind: str, *arguments: Any) -> Any:
        """The answer, a structure of the package; None where the GPU or its driver has none. Raises GpuLost or GpuError."""
        answer = getattr(self._library.binding, kind)()
        return answer if self._is_answered(function, *arguments, ctypes.byref(answer)) else None

    def _integer(self, function: str, kind: Any, *arguments: Any) -> int | None:
        answer = kind()
        return _known(answer.value) if self._is_answered(function, *arguments, ctypes.byref(answer)) else None

    def _is_answered(self, function: str, *arguments: Any) -> bool:
        code = self._call(function, *arguments)
        self._raise_for_code(function, code)
        return code == SUCCESS

    def _raise_for_code(self, function: str, code: int) -> None:
        if code != SUCCESS and code not in NOT_AVAILABLE_CODES:
            message = f"{function}: {self._library.text(code)}"
            raise GpuLost(message) if code in LOST_CODES else GpuError(message)

    def _probe(self, function: str, answer: Any) -> bool:
        """Whether the call is there, though it may fail now."""
        return any(self._call(function, ctypes.byref(answer)) not in NOT_AVAILABLE_CODES for _ in range(PROBES))

    def _read_power_ceiling(self) -> Watts | None:
        try:
            caps = self._struct("amdsmi_get_power_cap_info", "amdsmi_power_cap_info_t", ctypes.c_uint32(0))
        except GpuError:
            return None
        highest = None if caps is None else _cap_watts(caps.max_power_cap)
        return None if highest is None else Watts(PEAK_FACTOR * highest)

    def _read_resolution(self) -> float:
        """Joules of one count: what the library says, undone where it only rounds the kernel's unit."""
        try:
            said = self._read_energy_count()[1]
        except GpuError:
            said = None
        near = said is None or abs(said - JOULES_PER_COUNT) <= ROUNDED_TO * JOULES_PER_COUNT
        return JOULES_PER_COUNT if near or said is None else said

    def _read_energy_count(self) -> tuple[int | None, float | None]:
        """(counts, joules of one)."""
        count, resolution, at = ctypes.c_uint64(), ctypes.c_float(), ctypes.c_uint64()
        arguments = (ctypes.byref(count), ctypes.byref(resolution), ctypes.byref(at))
        if not self._is_answered("amdsmi_get_energy_count", *arguments):
            return None, None
        return _known(count.value), resolution.value * 1e-6 if 0 < resolution.value < 1e6 else None

    def read_counters(self) -> CounterReading:
        if self._has_metrics and self._is_answered("amdsmi_get_gpu_metrics_info", ctypes.byref(self._metrics)):
            return self._metrics_reading(self._metrics)
        counts = self._read_energy_count()[0]
        power = self._struct("amdsmi_get_power_info", "amdsmi_power_info_t")
        return CounterReading(energy=self._joules(counts), power=_socket_watts(power))

    def _metrics_reading(self, metrics: Any) -> CounterReading:
        residency = self._residency.add(metrics)
        bits = _known(getattr(metrics, "indep_throttle_status", None))
        active: Mapping[str, bool] = {}
        if not residency and bits is not None:
            active = {reason: bool(bits & mask) for reason, mask in REASON_BITS.items()}
        self._active = active or self._residency.active
        self._gives_mean_power = _field(metrics, "current_socket_power") is None
        return CounterReading(
            energy=self._joules(_known(metrics.energy_accumulator)),
            power=_socket_watts(metrics),
            throttle=residency,
            throttle_active=active,
        )

    def _joules(self, counts: int | None) -> Joules | None:
        # A GPU that has drawn nothing since its driver was loaded cannot be asked: 0 stands for no counter.
        return Joules(counts * self._joules_per_count) if counts else None

    def read_state(self) -> StateReading:
        """Reads utilization, memory, temperature, power cap and clocks; a call that fails takes only its own value with it."""
        failures = 0

        def query(read: Any, *arguments: Any) -> Any:
            nonlocal failures
            try:
                return read(*arguments)
            except GpuLost:
                raise
            except GpuError:
                failures += 1
                return None

        binding = self._library.binding
        activity = query(self._struct, "amdsmi_get_gpu_activity", "amdsmi_engine_usage_t")
        vram = ctypes.c_uint32(binding.AMDSMI_MEM_TYPE_VRAM)
        used, total = (
            query(self._integer, f"amdsmi_get_gpu_memory_{what}", ctypes.c_uint64, vram) for what in ("usage", "total")
        )
        temperature, margin = query(self._read_temperature) or (None, None)
        caps = query(self._struct, "amdsmi_get_power_cap_info", "amdsmi_power_cap_info_t", ctypes.c_uint32(0))
        clock: dict[str, Hertz] = {}
        clock_max: dict[str, Hertz] = {}
        for domains, kind in ((("graphics", "sm"), binding.AMDSMI_CLK_TYPE_GFX), (("memory",), binding.AMDSMI_CLK_TYPE_MEM)):
            info = query(self._struct, "amdsmi_get_clock_info", "amdsmi_clk_info_t", ctypes.c_uint32(kind))
            for place, value in ((clock, _field(info, "clk")), (clock_max, _field(info, "max_clk"))):
                if value:
                    place.update(dict.fromkeys(domains, hertz_from_megahertz(value)))
        busy = _field(activity, "gfx_activity")
        limit = _cap_watts(caps.power_cap) if caps is not None else None
        return StateReading(
            utilization=None if busy is None else ratio_from_percent(busy),
            memory_used=None if used is None or not total else Bytes(used),
            memory_total=Bytes(total) if total else None,
            temperature=temperature,
            temperature_margin=margin,
            power_limit=None if limit is None else Watts(limit),
            clock=clock,
            clock_max=clock_max,
            throttle_active=self._active,
            failures=failures,
        )

    def _read_temperature(self) -> tuple[Celsius | None, Celsius | None]:
        """(temperature, degrees to the critical one) of the hot spot, else of the edge."""
        binding = self._library.binding
        for sensor in (binding.AMDSMI_TEMPERATURE_TYPE_HOTSPOT, binding.AMDSMI_TEMPERATURE_TYPE_EDGE):
            now = self._read_sensor(sensor, binding.AMDSMI_TEMP_CURRENT)
            if now is None:
                continue
            if sensor not in self._critical:
                critical = self._read_sensor(sensor, binding.AMDSMI_TEMP_CRITICAL)
                if critical:
                    self._critical[sensor] = critical
            highest = self._critical.get(sensor)
            return Celsius(now), None if highest is None else Celsius(highest - now)
        return None, None

    def _read_sensor(self, sensor: int, kind: int) -> int | None:
        arguments = (ctypes.c_uint32(sensor), ctypes.c_uint32(kind))
        return self._integer("amdsmi_get_temp_metric", ctypes.c_int64, *arguments)

    def read_processes(self, since: Seconds) -> Sequence[ProcessUse] | None:  # noqa: ARG002 - the library knows the present only
        """Processes that have memory on this GPU now, without shares (``amdsmi_get_gpu_process_list``)."""
        pids = self._resident_pids()
        return None if pids is None else [ProcessUse(pid, None, None) for pid in pids]

    def read_residents(self) -> Mapping[str, Sequence[int] | None]:
        return {self.identity.uuid: self._resident_pids()}

    def _resident_pids(self) -> Sequence[int] | None:
        for _ in range(PROBES):
            count = ctypes.c_uint32(len(self._processes))
            code = self._call("amdsmi_get_gpu_process_list", ctypes.byref(count), self._processes)
            if code != OUT_OF_RESOURCES and count.value <= len(self._processes):
                break
            self._processes = (self._library.binding.amdsmi_proc_info_t * max(2 * len(self._processes), count.value))()
        if code:
            return None
        listed = [self._processes[place] for place in range(min(count.value, len(self._processes)))]
        resident = [each for each in listed if _known(each.memory_usage.vram_mem) or _known(each.mem)]
        self.process_names = {int(each.pid): each.name.decode(errors="replace").strip() for each in resident}
        return list(self.process_names)


class _Residency:
    """Seconds by throttle reason from the accumulators of gpu_metrics, since the first read.

    ``accumulation_counter`` counts the firmware's samples, and each accumulator those in which its limit held: their quotient
    over two reads is the share of the time between them (``system_clock_counter``, nanoseconds).
    """

    def __init__(self) -> None:
        self.active: Mapping[str, bool] = {}
        self._seconds: Mapping[str, Seconds] = {}
        self._before: tuple[int, int, Mapping[str, int]] | None = None

    def add(self, metrics: Any) -> Mapping[str, Seconds]:
        """Returns the seconds so far; empty where the GPU has no such accumulators."""
        samples, at = (_known(getattr(metrics, name, None)) for name in ("accumulation_counter", "system_clock_counter"))
        names = [name for own in RESIDENCIES.values() for name in own]
        counts = {name: count for name in names if (count := _known(getattr(metrics, name, None))) is not None}
        if not samples or not at or not counts:
            return {}
        if self._before is None or samples < self._before[0] or at < self._before[1]:
            # The first read, or the accumulators began anew: what grew meanwhile is not known.
            self._before = samples, at, counts
            known = {reason for reason, own in RESIDENCIES.items() if any(name in counts for name in own)}
            self._seconds = {reason: self._seconds.get(reason, Seconds(0.0)) for reason in known}
            return self._seconds
        samples_before, at_before, counts_before = self._before
        ticks, span = samples - samples_before, (at - at_before) / 1e9
        if not ticks:
            return self._seconds
        self._before = samples, at, counts
        grown = {
            reason: max((counts[name] - counts_before[name] for name in RESIDENCIES[reason] if name in counts_before), default=0)
            for reason in self._seconds
            if any(name in counts for name in RESIDENCIES[reason])
        }
        self.active = {reason: count > 0 for reason, count in grown.items()}
        if any(self.active.values()):
            added = {reason: span * min(max(count, 0) / ticks, 1.0) for reason, count in grown.items()}
            self._seconds = {reason: Seconds(total + added.get(reason, 0.0)) for reason, total in self._seconds.items()}
        return self._seconds


class AmdSource:
    """A ``GpuSource`` of all GPUs that AMD SMI can name. ``required``: raises GpuUnavailable where there is none now; otherwise
    ``scan`` finds a driver that is loaded later, and ``problem`` says what is wrong meanwhile.

    The library lists its GPUs when it starts: a GPU that is added later needs a new start of the exporter.
    """

    name = "amd"

    def __init__(self, *, required: bool = True) -> None:
        self.problem: str | None = None
        self._library: AmdSmiLibrary | None = None
        self._devices: dict[int, AmdDevice] = {}
        unreadable = self.scan()
        if self._devices:
            if unreadable:
                log.warning("left out for now, because it cannot be named: %s", "; ".join(unreadable))
            return
        self.problem = "; ".join(unreadable) or "AMD SMI runs but knows no GPU"
        if required:
            self.close()
            raise GpuUnavailable(self.problem)

    def devices(self) -> Sequence[AmdDevice]:
        return [device for _, device in sorted(self._devices.items())]

    def scan(self) -> Sequence[str]:
        unreadable: list[str] = []
        try:
            library = self._library = self._library or AmdSmiLibrary()
            handles = library.handles()
        except GpuUnavailable as error:
            if not self._devices:
                self.close()
            return [str(error)]
        for index, handle in enumerate(handles):
            if index in self._devices:
                continue
            try:
                device = AmdDevice(library, handle, index)
            except GpuError as error:
                unreadable.append(f"GPU {index}: {error}")
                continue
            if device.identity.uuid in {known.identity.uuid for known in self._devices.values()}:
                # Cards without a serial number all have the same.
                device.rename(f"{device.identity.uuid}-{device.bus_address() or index}")
            self._devices[index] = device
        if self._devices:
            self.problem = None
        elif not handles:
            # Only a new start of the library finds GPUs of a driver that is loaded later.
            self.close()
        return unreadable

    def process_name(self, pid: int) -> str | None:
        return next((name for device in self._devices.values() if (name := device.process_names.get(pid))), None)

    def close(self) -> None:
        if self._library is not None:
            self._library.close()
            self._library = None


def _known(value: Any) -> int | None:
    return None if value is None or value in UNKNOWN else int(value)


def _field(answer: Any, name: str) -> int | None:
    return _known(getattr(answer, name, None))


def _text(answer: Any, name: str) -> str:
    value = getattr(answer, name, b"")
    return value.decode(errors="replace").strip() or "unknown"


def _cap_watts(cap: int) -> float | None:
    known = _known(cap)
    if not known:
        return None
    return known * 1e-6 if known > LARGEST_CAP_WATTS else float(known)


def _socket_watts(answer: Any) -> Watts | None:
    """The present power, else the mean power, whichever this GPU has. A powered GPU never draws nothing."""
    watts = _field(answer, "current_socket_power") or _field(answer, "average_socket_power")
    return Watts(float(watts)) if watts else None
