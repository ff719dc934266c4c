"""NVML: devices, their sampling at 50 Hz, energy, throttling and processes; in base units, ``None`` is "not available"."""
