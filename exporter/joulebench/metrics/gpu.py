"""Readings of each GPU by the exporter; every series carries ``gpu`` and ``uuid``."""

from __future__ import annotations

from joulebench.metrics.label_sets import GPU, OWNER
from joulebench.metrics.metric import counter, gauge

GPU_INFO = gauge(
    "gpu_info",
    "GPU metadata, constant 1. source is nvml or amd for a real card and simulated for a simulated one; energy_method is"
    " counter, power_integration or none.",
    (*GPU, "name", "architecture", "driver_version", "source", "energy_method"),
)
GPU_UP = gauge("gpu_up", "1 while the GPU answers its driver, 0 once it is lost.", GPU)
GPU_UTILIZATION = gauge(
    "gpu_utilization_ratio",
    "Share of the driver's last sample period with a kernel running (nvmlDeviceGetUtilizationRates).",
    GPU,
)
GPU_MEMORY_USED = gauge("gpu_memory_used_bytes", "Device memory in use (nvmlDeviceGetMemoryInfo).", GPU)
GPU_MEMORY_RESERVED = gauge(
    "gpu_memory_reserved_bytes",
    "Device memory that the driver and the firmware keep for themselves (nvmlDeviceGetMemoryInfo_v2); absent where only the"
    " first version of that function is there, whose memory in use includes it.",
    GPU,
    unused_because="a constant of card and driver; explains why used and free memory do not add up to the total",
)
GPU_MEMORY_TOTAL = gauge("gpu_memory_total_bytes", "Device memory of the card (nvmlDeviceGetMemoryInfo).", GPU)
GPU_MIG_INFO = gauge(
    "gpu_mig_info",
    "MIG instance of the GPU, constant 1. mig: its UUID; profile: such as 3g.20gb; multiprocessors: its SMs"
    " (nvmlDeviceGetAttributes_v2).",
    (*GPU, "mig", "profile", "gpu_instance", "compute_instance", "multiprocessors"),
)
GPU_MIG_MEMORY_USED = gauge(
    "gpu_mig_memory_used_bytes",
    "Device memory in use on the MIG instance (nvmlDeviceGetMemoryInfo); compute instances of one GPU instance share it.",
    (*GPU, "mig"),
    unused_because="for queries about MIG instances",
)
GPU_MIG_MEMORY_TOTAL = gauge(
    "gpu_mig_memory_total_bytes",
    "Device memory of the MIG instance (nvmlDeviceGetMemoryInfo).",
    (*GPU, "mig"),
    unused_because="for queries about MIG instances",
)
GPU_MIG_UTILIZATION = gauge(
    "gpu_mig_utilization_ratio",
    "Share of the SMs of the MIG instance's GPU instance that were busy in the last second (GPM, NVML_GPM_METRIC_SM_UTIL); absent"
    " on cards older than Hopper, which cannot say.",
    (*GPU, "mig"),
)
GPU_TEMPERATURE = gauge("gpu_temperature_celsius", "Core temperature (nvmlDeviceGetTemperatureV).", GPU)
GPU_TEMPERATURE_MARGIN = gauge(
    "gpu_temperature_margin_celsius",
    "Degrees left before the card slows itself down: slowdown threshold minus temperature, or where the card has no threshold"
    " nvmlDeviceGetMarginTemperature, which ends at the highest operating temperature, plus the 2 or 3 degrees from there"
    " (NVML_FI_DEV_TEMPERATURE_SLOWDOWN_TLIMIT).",
    GPU,
)
GPU_POWER = gauge(
    "gpu_power_watts",
    "Instant power of the GPU or board, not of its module (NVML_FI_DEV_POWER_INSTANT, else nvmlDeviceGetPowerUsage, which is an"
    " average over 1 s on some cards and instant on others). For display; energy comes from the counter.",
    GPU,
)
GPU_POWER_LIMIT = gauge("gpu_power_limit_watts", "Enforced power limit (nvmlDeviceGetEnforcedPowerLimit).", GPU)
GPU_CLOCK = gauge("gpu_clock_hertz", "Current clock (nvmlDeviceGetClockInfo).", (*GPU, "clock"))
GPU_CLOCK_MAX = gauge("gpu_clock_max_hertz", "Highest clock of the card (nvmlDeviceGetMaxClockInfo).", (*GPU, "clock"))
GPU_ENERGY = counter(
    "gpu_energy_joules_total",
    "Energy since the driver was loaded (NVML_FI_DEV_ENERGY, else nvmlDeviceGetTotalEnergyConsumption, else instant power"
    " integrated at 50 Hz since the exporter started; energy_method of joulebench_gpu_info says which).",
    GPU,
)
GPU_ENERGY_SAMPLE_TIMESTAMP = gauge(
    "gpu_energy_sample_timestamp_seconds",
    "Unix time of the last change of joulebench_gpu_energy_joules_total: the time that belongs to its value.",
    GPU,
)
GPU_ENERGY_SAMPLE_UNCERTAINTY = gauge(
    "gpu_energy_sample_uncertainty_seconds",
    "Largest distance of joulebench_gpu_energy_sample_timestamp_seconds from the true time of the change.",
    GPU,
)
GPU_ENERGY_STEP = gauge(
    "gpu_energy_step_seconds",
    "Update period of the energy counter, as the exporter learned it.",
    GPU,
    unused_because="the bounds of each energy have its effect",
)
GPU_ENERGY_RESETS = counter("gpu_energy_resets_total", "Resets of the energy counter since the exporter started.", GPU)
GPU_ENERGY_CROSSCHECK = gauge(
    "gpu_energy_crosscheck_ratio",
    "Energy by the counter divided by integrated instant power, at start-up; outside 0.9 to 1.1 one of the two is wrong.",
    GPU,
)
GPU_THROTTLE_ACTIVE = gauge(
    "gpu_throttle_active",
    "1 while the clock event reason is set, else 0 (nvmlDeviceGetCurrentClocksEventReasons). sw_power_cap is 1 only with the"
    " power at 90 % of its limit or more, for it is set on idle cards too. other: any reason without a name here.",
    (*GPU, "reason"),
)
GPU_THROTTLE_SECONDS = counter(
    "gpu_throttle_seconds_total",
    "Time for which the reason lowered the clocks: the driver's nanosecond counters where it has them, else clock event reasons"
    " polled at 50 Hz. sw_power_cap grows only with the power at 90 % of its limit or more, and is absent without a limit.",
    (*GPU, "reason"),
)
GPU_LINK_BYTES = counter(
    "gpu_link_bytes_total",
    "Bytes that the card sent (tx) and received (rx) over PCIe and NVLink since the exporter first read it, by the driver's"
    " counters; absent where the driver has none. PCIe counters have 32 bits: above 4 GiB between two reads, a second"
    " apart, the sum is too low (NVML_FI_DEV_PCIE_COUNT_TX_BYTES and _RX_BYTES, NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX and _RX).",
    (*GPU, "link", "direction"),
)
GPU_FOREIGN_PROCESSES = gauge(
    "gpu_foreign_processes",
    "GPU processes other than known model servers that used the SMs since the last process poll"
    " (nvmlDeviceGetProcessUtilization; on cards without it all compute processes:"
    " nvmlDeviceGetComputeRunningProcesses). Absent where neither can be read.",
    GPU,
    unused_because="results use the time of foreign use, not the number of processes",
)
GPU_UNNAMED_PROCESSES = gauge(
    "gpu_unnamed_processes",
    "GPU processes that could not be identified, such as those of another container: unknown, not foreign.",
    GPU,
    unused_because="an upper bound of what joulebench_gpu_foreign_processes may miss",
)
GPU_FOREIGN_SM = gauge(
    "gpu_foreign_sm_ratio",
    "Share of SM time that foreign processes used while active, by the driver's samples; absent while the driver has none, as on"
    " an idle card and on a busy one that lists no process.",
    GPU,
    unused_because="detail beside joulebench_gpu_foreign_processes",
)
GPU_FOREIGN_USE = gauge(
    "gpu_foreign_use_timestamp_seconds",
    "Unix time at which a foreign process last used the GPU; absent until one has.",
    GPU,
)
GPU_FOREIGN_USE_START = gauge(
    "gpu_foreign_use_start_timestamp_seconds",
    "Unix time at which the last foreign use of the GPU started; uses with at most some seconds between them are one.",
    GPU,
)
GPU_PROCESS_OWNER_INFO = gauge(
    "gpu_process_owner_info",
    "1 while a process of the owner has memory on the GPU (nvmlDeviceGetComputeRunningProcesses; owners by /proc). server: the"
    " addresses at which it accepts connections; mig: UUID of the MIG instance. A label is empty where there is nothing of its"
    " kind; all are where /proc does not show the process.",
    (*GPU, "mig", *OWNER),
)
GPU_PROCESS_OWNER_START = gauge(
    "gpu_process_owner_start_timestamp_seconds",
    "Unix time since which processes of the owner have used the GPU; shown for 2 min after the use ended.",
    (*GPU, "mig", *OWNER),
)
GPU_PROCESS_OWNER_END = gauge(
    "gpu_process_owner_end_timestamp_seconds",
    "Unix time at which the last process of the owner left the GPU; shown for 2 min, and absent while one is there.",
    (*GPU, "mig", *OWNER),
)
GPU_PROCESS_OWNERS_DROPPED = gauge(
    "gpu_process_owners_dropped",
    "Owners of processes on the GPU that joulebench_gpu_process_owner_info leaves out, because there are more than 64. Absent"
    " where the driver does not list processes.",
    GPU,
)
GPU_READ_ERRORS = counter("gpu_read_errors_total", "NVML calls for the GPU that failed, by group of calls.", (*GPU, "group"))
GPU_GLITCHES = counter(
    "gpu_glitches_total",
    "Readings that the GPU cannot have had, by reading: energy beyond what its power limit allows since the reading before, power"
    " above the limit, below a hundredth of it, or that never changes while the counter does, utilization above 100 %. They are"
    " left out, and windows that they touch name them.",
    (*GPU, "reading"),
    unused_because="0 unless a driver answers nonsense; windows and the exporter's log name it",
)
