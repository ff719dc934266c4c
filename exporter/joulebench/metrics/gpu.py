"""What the exporter reads of each GPU: every series carries ``gpu`` and ``uuid``."""

from __future__ import annotations

from joulebench.metrics.label_sets import GPU
from joulebench.metrics.metric import counter, gauge

GPU_INFO = gauge(
    "gpu_info",
    "1, with what the GPU is. source is nvml for a measured card and simulated for an invented one; energy_method is"
    " counter, power_integration or none.",
    (*GPU, "name", "architecture", "driver_version", "source", "energy_method"),
)
GPU_UP = gauge("gpu_up", "1 while the GPU answers NVML, 0 once it is lost.", GPU)
GPU_UTILIZATION = gauge(
    "gpu_utilization_ratio",
    "Share of the driver's last sample period with a kernel running (nvmlDeviceGetUtilizationRates).",
    GPU,
)
GPU_MEMORY_USED = gauge("gpu_memory_used_bytes", "Device memory in use (nvmlDeviceGetMemoryInfo).", GPU)
GPU_MEMORY_TOTAL = gauge("gpu_memory_total_bytes", "Device memory of the card (nvmlDeviceGetMemoryInfo).", GPU)
GPU_TEMPERATURE = gauge("gpu_temperature_celsius", "Core temperature (nvmlDeviceGetTemperatureV).", GPU)
GPU_TEMPERATURE_MARGIN = gauge(
    "gpu_temperature_margin_celsius",
    "Degrees left before the card slows itself down (nvmlDeviceGetMarginTemperature, else slowdown threshold minus temperature).",
    GPU,
)
GPU_POWER = gauge(
    "gpu_power_watts",
    "Instant board power (NVML_FI_DEV_POWER_INSTANT, else nvmlDeviceGetPowerUsage, which averages over 1 s on Ampere and newer)."
    " For display; energy comes from the counter.",
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
    "When the energy counter last changed: the unix time that belongs to the value of joulebench_gpu_energy_joules_total.",
    GPU,
)
GPU_ENERGY_SAMPLE_UNCERTAINTY = gauge(
    "gpu_energy_sample_uncertainty_seconds", "The true time of that change lies at most this far from the sample timestamp.", GPU
)
GPU_ENERGY_STEP = gauge("gpu_energy_step_seconds", "Learned time between two changes of the energy counter.", GPU)
GPU_ENERGY_RESETS = counter("gpu_energy_resets_total", "Times the energy counter fell since the exporter started.", GPU)
GPU_ENERGY_CROSSCHECK = gauge(
    "gpu_energy_crosscheck_ratio",
    "Energy by the counter divided by integrated instant power over the start-up check; outside 0.9 to 1.1 one of them is wrong.",
    GPU,
)
GPU_THROTTLE_ACTIVE = gauge(
    "gpu_throttle_active",
    "1 while the clock event reason is set, 0 while not (nvmlDeviceGetCurrentClocksEventReasons).",
    (*GPU, "reason"),
)
GPU_THROTTLE_SECONDS = counter(
    "gpu_throttle_seconds_total",
    "Time the reason held clocks down: the driver's nanosecond counters where it has them, else event reasons at 50 Hz.",
    (*GPU, "reason"),
)
GPU_LINK_BYTES = counter(
    "gpu_link_bytes_total",
    "Bytes that the card sent (tx) and received (rx) over PCIe and NVLink since the exporter first saw it, by the driver's own"
    " counters; absent where it does not count. PCIe counters of 32 bits wrap: above 4 GiB between two reads, a second"
    " apart, the sum is too low (NVML_FI_DEV_PCIE_COUNT_TX_BYTES and _RX_BYTES, NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX and _RX).",
    (*GPU, "link", "direction"),
)
GPU_FOREIGN_PROCESSES = gauge(
    "gpu_foreign_processes",
    "Programs that used the GPU's SMs since the look before, every few seconds, and are no known model server"
    " (nvmlDeviceGetProcessUtilization; where a card cannot tell use, its compute processes:"
    " nvmlDeviceGetComputeRunningProcesses). Absent where neither can be read.",
    GPU,
    unused_because="says how many there are; results go by the time of their use",
)
GPU_UNNAMED_PROCESSES = gauge(
    "gpu_unnamed_processes",
    "The same of processes whose program cannot be named from here, such as those of another container: unknown, not foreign.",
    GPU,
    unused_because="says what the count of foreign processes may miss",
)
GPU_FOREIGN_SM = gauge(
    "gpu_foreign_sm_ratio",
    "Share of the SMs' time that foreign programs used while they did, by the driver's samples; absent where it does not tell.",
    GPU,
    unused_because="says how much they use, beside the count of foreign processes",
)
GPU_FOREIGN_USE = gauge(
    "gpu_foreign_use_timestamp_seconds",
    "When a foreign program was last seen to use the GPU; absent as long as none was.",
    GPU,
)
GPU_FOREIGN_USE_START = gauge(
    "gpu_foreign_use_start_timestamp_seconds",
    "When that use began, as far as it went on without a longer pause than some seconds.",
    GPU,
)
GPU_READ_ERRORS = counter("gpu_read_errors_total", "NVML calls that failed, by group of calls.", (*GPU, "group"))
