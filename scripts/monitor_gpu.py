#!/usr/bin/env python3
"""Writes GPU and container readings to a CSV: the same as ``joulebench monitor``, under the name that its users know."""

from __future__ import annotations

from clone_environment import run

if __name__ == "__main__":
    run("monitor")
