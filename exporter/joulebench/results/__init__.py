"""What is computed after the run: windows, energy, statistics, result JSON and CSV."""
