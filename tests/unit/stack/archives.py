"""A local server in place of the package and release servers: files by path, each held back until the test lets it go."""

from __future__ import annotations

import hashlib
import io
import posixpath
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread

WAIT_SECONDS = 30.0


class FileServer:
    """``held``: a path whose bytes are sent only after ``go`` is set; ``asked`` is set when they are asked for."""

    def __init__(self, files: Mapping[str, bytes], held: str | None = None) -> None:
        self.files = dict(files)
        self.requests: list[str] = []
        self.held = held
        self.asked, self.go = Event(), Event()
        self.url = ""


@contextmanager
def served(files: Mapping[str, bytes], held: str | None = None) -> Iterator[FileServer]:
    content = FileServer(files, held)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = posixpath.normpath(self.path)
            content.requests.append(path)
            body = content.files.get(path)
            if body is not None and path == content.held:
                content.asked.set()
                content.go.wait(WAIT_SECONDS)
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Type", "text/html" if body and body.startswith(b"<") else "application/octet-stream")
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """A test's output is no access log."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    content.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield content
    finally:
        content.go.set()
        server.shutdown()
        thread.join()
        server.server_close()


def tar_archive(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def debian_package(folder: Path, name: str, files: Mapping[str, bytes], depends: str = "") -> bytes:
    """A package of these files, made by dpkg-deb in ``folder``."""
    tree = folder / f"{name}-tree"
    control = tree / "DEBIAN/control"
    control.parent.mkdir(parents=True)
    lines = [
        f"Package: {name}",
        "Version: 1.0",
        "Architecture: all",
        "Maintainer: A Test <test@example.org>",
        "Description: a test",
    ]
    control.write_text("\n".join([*lines, *([f"Depends: {depends}"] if depends else [])]) + "\n", encoding="utf-8")
    for path, content in files.items():
        target = tree / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        target.chmod(0o755)
    package = folder / f"{name}.deb"
    subprocess.run(["dpkg-deb", "--build", "--root-owner-group", str(tree), str(package)], check=True, capture_output=True)
    return package.read_bytes()


def apt_repository(packages: Mapping[str, bytes], depends: Mapping[str, str] | None = None) -> dict[str, bytes]:
    """The files of a repository that lists these packages; what it lists is what apt verifies against."""
    entries = []
    for name, content in packages.items():
        fields = {
            "Package": name,
            "Version": "1.0",
            "Architecture": "all",
            "Filename": f"./{name}.deb",
            "Size": str(len(content)),
            "SHA256": hashlib.sha256(content).hexdigest(),
        }
        if depends and name in depends:
            fields["Depends"] = depends[name]
        entries.append("".join(f"{key}: {value}\n" for key, value in fields.items()))
    index = "\n".join(entries).encode()
    release = f"SHA256:\n {hashlib.sha256(index).hexdigest()} {len(index)} Packages\n".encode()
    return {"/Packages": index, "/Release": release, **{f"/{name}.deb": content for name, content in packages.items()}}
