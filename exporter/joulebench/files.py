"""Files that are complete at every moment: atomic writes, one writer in a directory; and CSV as people save it."""

from __future__ import annotations

import codecs
import csv
import fcntl
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from joulebench.errors import UserError

_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
MAX_YAML_BYTES = 4_000_000
_DELIMITERS = (",", ";", "\t")
_FORMULA_SIGNS = ("=", "+", "-", "@", "\t", "\r", "\n")


def write_atomic(path: Path, content: str | bytes, *, durable: bool = False, option: str = "--out") -> None:
    """Writes all of ``content`` under ``path``, or leaves what was there before; see ``open_atomic``."""
    with open_atomic(path, durable=durable, option=option) as out:
        # A lone surrogate has no UTF-8; its escape is what JSON writes for it too.
        rest = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
        while rest:
            rest = rest[out.write(rest) :]


@contextmanager
def open_atomic(path: Path, *, durable: bool = False, option: str = "--out") -> Iterator[io.FileIO]:
    """An unbuffered file that takes the place of ``path`` when the block ends, and of nothing where it raises.

    A device or a pipe is written to instead. ``durable`` holds also when the machine loses power. The mode of an existing file is
    kept. Raises UserError, which names ``option``, where the file cannot be written.
    """
    target = path.resolve() if path.is_symlink() else path
    if path.exists() and not path.is_file() and not path.is_dir():
        with _open_device(path, option) as out:
            yield out
        return
    beside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with beside.open("wb", buffering=0) as out:
            yield out
            if durable:
                os.fsync(out.fileno())
        if target.exists():
            beside.chmod(target.stat().st_mode & 0o7777)
        beside.replace(target)
    except OSError as error:
        _unlink(beside)
        raise UserError(f"{option}: {path} cannot be written ({error.strerror}); give a directory that can") from error
    except BaseException:
        _unlink(beside)
        raise


@contextmanager
def _open_device(path: Path, option: str) -> Iterator[io.FileIO]:
    """A device or a pipe, such as /dev/stdout, which takes what is written and is not replaced."""
    try:
        with path.open("wb", buffering=0) as out:
            yield out
    except OSError as error:
        raise UserError(f"{option}: {path} cannot be written ({error.strerror}); give a file that can") from error


def _unlink(path: Path) -> None:
    with suppress(OSError):
        path.unlink()


def read_text(path: Path, *, option: str = "--out") -> str:
    """The text under ``path``, empty where there is no file. Raises UserError where it cannot be read."""
    try:
        return path.read_bytes().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise UserError(f"{option}: {path} cannot be read ({error.strerror}); move it away") from error


@contextmanager
def lock_directory(directory: Path, *, option: str = "--out") -> Iterator[None]:
    """Makes the directory and keeps other processes that lock it waiting. Raises UserError where it cannot be used."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        handle = os.open(directory, os.O_RDONLY)
    except OSError as error:
        raise UserError(f"{option}: {directory} cannot be used ({error.strerror}); give a directory") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def decode_text(content: bytes, name: str = "the file", *, damaged: bool = False) -> str:
    """Text in UTF-8, UTF-16 or UTF-32 by its byte order mark, which is left out. Raises UserError that names the trouble.

    ``damaged``: bytes that are no text are replaced, for logs that a crash may have cut.
    """
    encoding = "utf-8"
    for mark, marked in _BYTE_ORDER_MARKS:
        if content.startswith(mark):
            content, encoding = content[len(mark) :], marked
            break
    else:
        if b"\0" in content[:200]:
            raise UserError(f"{name}: looks like UTF-16 without a byte order mark; save it as UTF-8")
    try:
        return content.decode(encoding, "replace" if damaged else "strict")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{name}: is not {encoding.upper()} text ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from error


def load_yaml(path: Path) -> Any:
    """The content of a YAML file. Raises OSError, and ValueError for what is no YAML or too large to be read."""
    import yaml

    with path.open("rb") as file:
        content = file.read(MAX_YAML_BYTES + 1)
    if len(content) > MAX_YAML_BYTES:
        raise ValueError(f"more than {MAX_YAML_BYTES:,} bytes")
    try:
        return yaml.safe_load(content.decode("utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def csv_reader(text: str) -> csv.DictReader[str]:
    """Rows of a CSV with commas, semicolons or tabs, whatever ends its lines."""
    header = text.lstrip("\r\n").split("\n", 1)[0]
    delimiter = max(_DELIMITERS, key=header.count)
    return csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)


def read_csv(path: Path) -> csv.DictReader[str]:
    """Rows of a CSV file in any of the encodings of ``decode_text``. Raises UserError where it cannot be read."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    return csv_reader(decode_text(content, str(path)))


def csv_text(value: str) -> str:
    """Text of a cell with an apostrophe before what a spreadsheet would run as a formula; no two texts become the same."""
    return f"'{value}" if value.lstrip("'").startswith(_FORMULA_SIGNS) else value


def plain_csv_text(cell: str) -> str:
    """The text that ``csv_text`` made a cell of."""
    return cell[1:] if cell.startswith("'") and cell.lstrip("'").startswith(_FORMULA_SIGNS) else cell
