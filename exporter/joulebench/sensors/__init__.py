"""What is read: GPUs and model servers. Readings leave here in base units; ``None`` is "not available"."""
