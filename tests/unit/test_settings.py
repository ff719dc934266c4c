"""Addresses are read as their own programs read them, and no password of an address is ever shown."""

from __future__ import annotations

import logging
import os
import traceback
from pathlib import Path

import pytest

from joulebench.errors import UserError
from joulebench.settings import Endpoints, Url, http_url, is_loopback, mask_credentials, ollama_url, read_secret_file

SECRET = "s3cr3t"


@pytest.mark.parametrize(
    ("value", "url"),
    [
        ("", "http://127.0.0.1:11434"),
        ("example.lan", "http://example.lan:11434"),
        ("example.lan:9", "http://example.lan:9"),
        ("http://ollama.lan", "http://ollama.lan:80"),
        ("https://ollama.lan", "https://ollama.lan:443"),
        ("https://gw.lan/ollama", "https://gw.lan:443/ollama"),
        ("https://gw.lan/ollama/", "https://gw.lan:443/ollama"),
        ("gw.lan:8080/ollama", "http://gw.lan:8080/ollama"),
        ('"0.0.0.0:11434"', "http://127.0.0.1:11434"),
        (" 'example.lan' ", "http://example.lan:11434"),
        (":11435", "http://127.0.0.1:11435"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("http://0.0.0.0", "http://127.0.0.1:80"),
        ("[::1]", "http://[::1]:11434"),
        ("::1", "http://[::1]:11434"),
        ("[::]:5", "http://[::1]:5"),
        ("::", "http://[::1]:11434"),
        ("example.lan:99999", "http://example.lan:11434"),
        ("example.lan:x", "http://example.lan:11434"),
        ("https://example.lan:", "https://example.lan:443"),
        ("ollama.com", "https://ollama.com:443"),
        ("HTTPS://example.lan", "https://example.lan:11434"),
    ],
)
def test_ollama_host_is_read_as_ollama_reads_it(value: str, url: str) -> None:
    assert ollama_url({"OLLAMA_HOST": value}) == url


@pytest.mark.parametrize("value", ["ftp://example.lan", "unix:///run/ollama.sock", "http://a b"])
def test_an_ollama_host_that_no_client_can_use_is_refused(value: str) -> None:
    with pytest.raises(UserError, match="OLLAMA_HOST"):
        ollama_url({"OLLAMA_HOST": value})


@pytest.mark.parametrize(
    "value",
    [
        f"http://user:{SECRET}@h:9090/prefix/",
        f"https://{SECRET}@h",
        f"http://user:a@{SECRET}@h",
        f"http://user:%40{SECRET}%2f@[::1]:9090",
    ],
)
def test_a_url_never_shows_its_credentials(value: str, caplog: pytest.LogCaptureFixture) -> None:
    url = Url.parse(value, "--url")
    with caplog.at_level(logging.INFO):
        logging.getLogger("t").info("asking %s and %r", url, url)
    shown = [str(url), repr(url), f"{url}", caplog.text, str(Endpoints(url, None, (url,), Path("runs")))]
    assert not [text for text in shown if SECRET in text]
    assert "***@" in str(url)
    assert SECRET not in url.base
    assert Url.parse(url.reveal(), "again") == url


@pytest.mark.parametrize(
    "value",
    [
        f"user:{SECRET}@h:9090",
        f"htp://u:{SECRET}@h",
        f"http://u:{SECRET}/x@h",
        f"http://u:{SECRET}@h:port",
        f"http://u:{SECRET} x@h",
        f"http://u:{SECRET}@h/?q=1",
        f"http://u:{SECRET}@h/#f",
        f"http://u:{SECRET}@[::1",
    ],
)
def test_a_bad_url_is_refused_without_its_credentials(value: str) -> None:
    with pytest.raises(UserError, match="--url") as caught:
        Url.parse(value, "--url")
    assert SECRET not in "".join(traceback.format_exception_only(caught.value))


def test_an_error_text_loses_the_credentials_of_the_urls_in_it() -> None:
    assert mask_credentials(f"no route to http://u:{SECRET}@h:1/x, mail a@b") == "no route to http://***@h:1/x, mail a@b"


def test_a_url_is_checked_and_cut_to_its_address() -> None:
    assert http_url("http://h:9090/", "x") == "http://h:9090"
    assert http_url("https://h/prom/", "x") == "https://h/prom"
    for value in ("", "h", "127.0.0.1:9090", "http://", "http://h:0", "http://h:99999", "file:///etc/passwd"):
        with pytest.raises(UserError, match="x: "):
            http_url(value, "x")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.9.9", "::1", "[::1]", "LOCALHOST.", "a.localhost", "0.0.0.0"])
def test_this_machine_is_known_by_its_names(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["localhost.evil.example", "10.0.0.1", "example.lan", "", "127.0.0.1.nip.io"])
def test_another_machine_is_none_of_them(host: str) -> None:
    assert not is_loopback(host)


def test_endpoints_come_from_arguments_then_environment_then_loopback(tmp_path: Path) -> None:
    environ = {"JOULEBENCH_GATEWAY_URL": "http://g:1/", "JOULEBENCH_EXPORTER_URL": "none", "JOULEBENCH_RUNS_DIR": str(tmp_path)}
    endpoints = Endpoints.from_settings(prometheus_url="http://u:p@p:2", environ=environ)
    assert (str(endpoints.gateway), str(endpoints.prometheus), endpoints.exporter) == ("http://g:1", "http://***@p:2", None)
    assert endpoints.runs_dir == tmp_path
    assert Endpoints.from_settings(environ=endpoints.environment()) == endpoints
    assert str(Endpoints.from_settings(environ={}).gateway) == "http://127.0.0.1:9091"
    with pytest.raises(UserError, match="JOULEBENCH_GATEWAY_URL"):
        Endpoints.from_settings(environ={"JOULEBENCH_GATEWAY_URL": "nonsense"})


@pytest.mark.parametrize("kind", ["pipe", "device", "two lines", "long"])
def test_a_secret_is_one_line_of_a_regular_file(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "token"
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/zero")
        case "two lines":
            path.write_text("token\nX-Other: 1\n")
        case _:
            path.write_text("x" * 2_000_000)
    with pytest.raises(UserError, match=r"bearer_token_file: .*(no regular file; write|on one line|longer than)"):
        read_secret_file(path, "bearer_token_file")
