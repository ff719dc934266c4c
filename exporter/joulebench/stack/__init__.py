"""The programs around Joulebench, started and stopped on this machine without containers."""
