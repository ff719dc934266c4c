"""Atomic writes and CSV in every form that people save it in."""

from __future__ import annotations

import codecs
import os
from pathlib import Path

import pytest

from joulebench.errors import UserError
from joulebench.files import MAX_YAML_BYTES, csv_text, load_yaml, plain_csv_text, read_csv, write_atomic

PLAIN = 'name,watts\none,1.5\n"two, three",2\n'


@pytest.mark.parametrize(
    "content",
    [
        PLAIN.encode(),
        PLAIN.replace("\n", "\r\n").encode(),
        codecs.BOM_UTF8 + PLAIN.encode(),
        codecs.BOM_UTF16_LE + PLAIN.encode("utf-16-le"),
        codecs.BOM_UTF16_BE + PLAIN.encode("utf-16-be"),
        b'name;watts\none;1.5\n"two, three";2\n',
        b"name\twatts\none\t1.5\ntwo, three\t2\n",
    ],
    ids=["plain", "crlf", "bom", "utf16le", "utf16be", "semicolons", "tabs"],
)
def test_a_csv_is_read_in_every_form(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    assert list(read_csv(path)) == [{"name": "one", "watts": "1.5"}, {"name": "two, three", "watts": "2"}]


@pytest.mark.parametrize(
    ("content", "trouble"),
    [(PLAIN.encode("utf-16-le"), "UTF-16 without a byte order mark"), (b"name,watts\n\xe9,1\n", "is not UTF-8 text")],
)
def test_a_csv_that_cannot_be_read_is_refused_by_the_name_of_the_trouble(tmp_path: Path, content: bytes, trouble: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=trouble):
        read_csv(path)


@pytest.mark.parametrize("text", ["=1", "'=1", "''=1", "'", "'x", "plain", "-", "", "@a", "'\t"])
def test_a_cell_is_no_formula_and_gives_its_text_back(text: str) -> None:
    cell = csv_text(text)
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
    assert plain_csv_text(cell) == text


def test_a_write_replaces_all_and_keeps_the_mode(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_atomic(path, "old")
    path.chmod(0o640)
    write_atomic(path, "new \ud83d", durable=True)
    assert path.read_bytes() == b"new \\ud83d"
    assert path.stat().st_mode & 0o777 == 0o640
    assert [one.name for one in tmp_path.iterdir()] == ["a.txt"]


def test_a_directory_that_cannot_be_written_is_a_users_matter(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be written"):
        write_atomic(tmp_path / "none" / "a.txt", "x")


def test_a_pipe_takes_what_is_written_and_stays_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_atomic(pipe, "text")
    assert os.read(reader, 10) == b"text"
    os.close(reader)
    assert pipe.is_fifo()


def test_a_full_device_is_a_users_matter_and_is_not_replaced(tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.symlink_to("/dev/full")
    with pytest.raises(UserError, match="No space left on device"):
        write_atomic(full, "x")
    assert full.is_char_device()


@pytest.mark.parametrize(
    ("content", "trouble"),
    [
        (b"[" * 5000, "nested too deep"),
        (b"a: [", "expected"),
        (b"\xff\xfe\x00", "invalid start byte"),
        (b"#" * (MAX_YAML_BYTES + 1), "more than 4,000,000 bytes"),
    ],
)
def test_what_is_no_yaml_is_one_kind_of_error(content: bytes, trouble: str, tmp_path: Path) -> None:
    path = tmp_path / "a.yml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=trouble):
        load_yaml(path)
