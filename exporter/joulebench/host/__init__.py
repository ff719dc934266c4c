"""Energy counters of the host's CPUs and memory, as the kernel shows them."""
