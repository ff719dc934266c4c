"""NVML and AMD SMI: devices, their sampling at 50 Hz, energy, throttling, processes. Base units; ``None`` is "not available"."""
