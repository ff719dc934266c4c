"""The Berkeley Function Calling Leaderboard as a workload: its tasks, simulators and checkers (PyPI ``bfcl-eval``)."""
