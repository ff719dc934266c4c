#!/usr/bin/env python3
"""Puts a task into the tables of its suite: the same as ``joulebench collect-metrics``, under the name that its users know."""

from __future__ import annotations

from clone_environment import run

if __name__ == "__main__":
    run("collect-metrics")
