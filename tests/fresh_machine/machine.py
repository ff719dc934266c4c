"""A minimal Debian in a folder, with its own processes and mounts, in which one user after the other runs commands.

Made by mmdebstrap and entered by chroot in new mount and process namespaces: when a command ends, whatever it started and mounted
is gone. The network is that of the host. Root is needed. Only the standard library is used: the host's environment is not needed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

RELEASE = "bookworm"
PACKAGES = ("ca-certificates", "git", "make", "python3", "python3-venv")
"""All that a new user's machine has beside the minimal system; the README lists the same."""
NEWCOMER = "newcomer"
PROJECT = "/home/project"
BASE_DAYS = 7

SETTINGS = re.compile(
    r"PIP_|SSL_CERT_|CURL_CA_BUNDLE$|REQUESTS_CA_BUNDLE$|NODE_EXTRA_CA_CERTS$|GO(PROXY|SUMDB|FLAGS)$|npm_config_|NPM_CONFIG_"
    r"|(https?|all|no)_proxy$|(HTTPS?|ALL|NO)_PROXY$"
)
"""Environment variables by which this machine reaches package registries: a new machine in its place would have them too."""
APT_SETTINGS = re.compile(r"Acquire::(Check-|Retries|https?::|ftp::)", re.IGNORECASE)
PIP_FILES = ("/etc/pip.conf", "/etc/xdg/pip/pip.conf")


def why_not() -> str | None:
    """Return why no such machine can be made here, None where it can."""
    if os.geteuid() != 0:
        return "it needs root, for mmdebstrap and chroot"
    missing = [name for name in ("mmdebstrap", "unshare", "chroot", "git") if shutil.which(name) is None]
    if missing:
        return f"{', '.join(missing)} is not installed; on Debian: apt-get install {' '.join(missing)}"
    probe = subprocess.run(["unshare", "--mount", "--pid", "--fork", "true"], capture_output=True, text=True, check=False)
    if probe.returncode != 0:
        return f"no namespaces can be made here ({probe.stderr.strip()})"
    return None


def settings() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if SETTINGS.match(name)}


def base_system(cache: Path, release: str = RELEASE, packages: Sequence[str] = PACKAGES) -> Path:
    """Return the archive of the minimal system, made again when it is older than a week."""
    digest = hashlib.sha256(" ".join((release, *packages)).encode()).hexdigest()[:12]
    base = cache / f"{release}-{digest}.tar"
    if base.exists() and time.time() - base.stat().st_mtime < BASE_DAYS * 86400:
        return base
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as temporary:
        draft, apt = Path(temporary) / "base.tar", Path(temporary) / "apt.conf"
        apt.write_text("".join(_apt_settings()), encoding="utf-8")
        command = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(packages)}", f"--aptopt={apt}"]
        subprocess.run([*command, release, str(draft), *_apt_sources(release)], stdin=subprocess.DEVNULL, check=True)
        draft.replace(base)
    return base


def _apt_sources(release: str) -> list[str]:
    """This machine's own list of sources where it is of the same release, so that a mirror is used that it reaches."""
    places = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]
    found = [
        str(path)
        for path in places
        if path.suffix in (".list", ".sources")
        and path.is_file()
        and re.search(rf"\b{release}\b", path.read_text(encoding="utf-8"))
    ]
    return found[:1]


def _apt_settings() -> Iterator[str]:
    if shutil.which("apt-config") is not None:
        done = subprocess.run(["apt-config", "dump", "--no-empty", "Acquire"], capture_output=True, text=True, check=True)
        yield from (line for line in done.stdout.splitlines(keepends=True) if APT_SETTINGS.match(line))


class FreshMachine:
    """One system, from ``with`` to its end. ``project``: the checkout whose last commit is cloned into it."""

    def __init__(self, base: Path, project: Path) -> None:
        self._base = base
        self._project = project
        self.root = Path()

    def __enter__(self) -> FreshMachine:
        self.root = Path(tempfile.mkdtemp(prefix="fresh-machine-"))
        self.root.chmod(0o755)
        subprocess.run(["tar", "-C", str(self.root), "-xf", str(self._base)], check=True)
        self._copy_settings()
        subprocess.run(["chroot", str(self.root), "useradd", "--create-home", NEWCOMER], check=True)
        subprocess.run(["git", "clone", "--quiet", str(self._project), f"{self.root}{PROJECT}"], check=True)
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.root)

    def _copy_settings(self) -> None:
        """How this machine resolves names, and the files that ``settings`` and pip name."""
        bundle = "/etc/ssl/certs/ca-certificates.crt"
        named = [value for value in settings().values() if value.startswith("/") and Path(value).is_file()]
        for name in dict.fromkeys(["/etc/resolv.conf", "/etc/hosts", bundle, *PIP_FILES, *named]):
            if Path(name).is_file():
                target = Path(f"{self.root}{name}")
                target.parent.mkdir(parents=True, exist_ok=True)
                target.unlink(missing_ok=True)
                shutil.copyfile(name, target)
        for value in settings().values():
            if value.startswith("/") and Path(value).is_dir():
                Path(f"{self.root}{value}").mkdir(parents=True, exist_ok=True)

    def give_to(self, user: str) -> None:
        """The clone belongs to this user from now on."""
        subprocess.run(["chroot", str(self.root), "chown", "-R", f"{user}:", PROJECT], check=True)

    def run(self, user: str, command: str, log: Path, *, seconds: float, **environment: str) -> int:
        """Run a shell command in the clone as ``user`` and return its exit status, 124 where it took too long. What it prints
        goes to ``log``."""
        home = "/root" if user == "root" else f"/home/{user}"
        variables = {
            **settings(),
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": home,
            "USER": user,
            "LANG": "C.UTF-8",
            **environment,
        }
        enter = ["chroot", f"--userspec={user}", str(self.root), "env", "-i", *(f"{k}={v}" for k, v in variables.items())]
        shell = [*enter, "bash", "-c", f"cd {PROJECT} && {command}"]
        mounts = (
            f"mount -t proc proc {shlex.quote(f'{self.root}/proc')}",
            f"mount -t tmpfs -o mode=755 dev {shlex.quote(f'{self.root}/dev')}",
            *self._devices(),
        )
        script = f"set -e; {'; '.join(mounts)}; exec {shlex.join(shell)}"
        namespaces = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "bash", "-c", script]
        with log.open("wb") as sink:
            running = subprocess.Popen(
                namespaces, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT, start_new_session=True
            )
            try:
                return running.wait(seconds)
            except subprocess.TimeoutExpired:
                return 124
            finally:
                # The group has the first process of the namespace, with which all others in it end.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(running.pid, signal.SIGKILL)
                running.wait()

    def _devices(self) -> Iterator[str]:
        for name in ("null", "zero", "full", "random", "urandom", "tty"):
            target = shlex.quote(f"{self.root}/dev/{name}")
            yield f"touch {target}; mount --bind /dev/{name} {target}"
        for name, kind in (("shm", "tmpfs"), ("pts", "devpts")):
            target = shlex.quote(f"{self.root}/dev/{name}")
            yield f"mkdir {target}; mount -t {kind} {kind} {target}"
        yield f"ln -s /proc/self/fd {shlex.quote(f'{self.root}/dev/fd')}"
