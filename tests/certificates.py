"""Certificates of a server and its clients, made by openssl for a test."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Certificates:
    """An authority with a server's and a client's certificate, and another authority that nobody trusts, with a client's."""

    directory: Path

    def __getitem__(self, name: str) -> Path:
        return self.directory / f"{name}.pem"

    @classmethod
    def make(cls, directory: Path) -> Certificates:
        """Make them in ``directory``; the test is skipped where there is no openssl."""
        openssl = shutil.which("openssl")
        if openssl is None:
            pytest.skip("openssl is not installed")

        def run(*arguments: str) -> None:
            subprocess.run([openssl, *arguments], check=True, capture_output=True, cwd=directory)

        key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
        for authority in ("ca", "other-ca"):
            files = ("-keyout", f"{authority}-key.pem", "-out", f"{authority}.pem")
            run("req", "-x509", *key, *files, "-subj", f"/CN={authority}", "-addext", "keyUsage=critical,keyCertSign,cRLSign")
        for name, authority, alternative in (
            ("server", "ca", "IP:127.0.0.1"),
            ("misnamed", "ca", "DNS:metrics.example"),
            ("client", "ca", "DNS:client"),
            ("other-client", "other-ca", "DNS:client"),
        ):
            signing = ("-CA", f"{authority}.pem", "-CAkey", f"{authority}-key.pem", "-addext", f"subjectAltName={alternative}")
            plain = ("-addext", "basicConstraints=critical,CA:FALSE")
            run(
                "req",
                "-x509",
                *key,
                "-keyout",
                f"{name}-key.pem",
                "-out",
                f"{name}.pem",
                "-subj",
                f"/CN={name}",
                *signing,
                *plain,
            )
        return cls(directory)
