"""The private folder of one task, and the only way its tools reach files.

Every path is relative, stays inside and crosses no symbolic link; sizes and counts are bounded. What breaks a rule is a
``ToolFailure`` that the model may read, never an access.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from types import TracebackType

from joulebench.errors import JoulebenchError

MAX_FILE_BYTES = 64 * 1024
MAX_FILES = 64
MAX_PATH_LENGTH = 200


class ToolFailure(JoulebenchError):
    """A tool cannot do what was asked; the message goes to the model."""


def path_problem(path: str) -> str | None:
    """Why ``path`` cannot name a file of a task, or None."""
    if not path or len(path) > MAX_PATH_LENGTH:
        return f"a path has 1 to {MAX_PATH_LENGTH} characters"
    if "\\" in path or any(ord(character) < 32 for character in path):
        return "a path holds no backslash and no control character"
    pure = PurePosixPath(path)
    if pure.is_absolute() or path.startswith("~"):
        return "a path is relative to the task's folder"
    if ".." in pure.parts:
        return "a path does not leave the task's folder"
    if not pure.parts:
        return "a path names a file"
    return None


class Workspace:
    """A temporary folder with the task's files, gone at the end."""

    def __init__(self, files: Mapping[str, str]) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="joulebench-task-")
        self.root = Path(self._folder.name).resolve()
        for path, text in files.items():
            self.write(path, text)

    def __enter__(self) -> Workspace:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._folder.cleanup()

    def names(self) -> list[str]:
        """Every file, sorted, as relative paths."""
        return sorted(
            str(path.relative_to(self.root)) for path in self.root.rglob("*") if path.is_file() and not path.is_symlink()
        )

    def read(self, path: str) -> str:
        return self._existing(path).read_bytes().decode("utf-8", "replace")

    def write(self, path: str, text: str, append: bool = False) -> None:
        target = self._resolve(path)
        data = text.encode("utf-8", "replace")
        old_size = target.stat().st_size if target.is_file() else None
        if len(data) + (old_size or 0) * append > MAX_FILE_BYTES:
            raise ToolFailure(f"{path}: a file holds at most {MAX_FILE_BYTES} bytes")
        if old_size is None and len(self.names()) >= MAX_FILES:
            raise ToolFailure(f"a task has at most {MAX_FILES} files")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("ab" if append else "wb") as file:
                file.write(data)
        except OSError as error:
            raise ToolFailure(f"{path}: {error.strerror}") from error

    def delete(self, path: str) -> None:
        self._existing(path).unlink()

    def snapshot(self) -> dict[str, str]:
        """Text of every file: what a grade looks at."""
        return {name: self.read(name) for name in self.names()}

    def _existing(self, path: str) -> Path:
        target = self._resolve(path)
        if not target.is_file():
            raise ToolFailure(f"{path}: there is no such file")
        return target

    def _resolve(self, path: str) -> Path:
        problem = path_problem(path)
        if problem is not None:
            raise ToolFailure(f"{path!r}: {problem}")
        target = self.root
        for part in PurePosixPath(path).parts:
            target = target / part
            if target.is_symlink():
                raise ToolFailure(f"{path}: symbolic links are not followed")
        return target
