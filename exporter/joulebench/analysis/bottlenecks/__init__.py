"""What holds a model back on this machine: waits, memory, bandwidth, heat, power, a card that waits for another."""
