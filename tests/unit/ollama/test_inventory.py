"""What is read from Ollama's answers, also from those of servers that are newer, older, broken or gone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from joulebench.errors import OllamaError
from joulebench.metrics.label_text import MAX_LABEL_LENGTH
from joulebench.ollama.inventory import MAX_ANSWER_BYTES, MAX_MODELS, LoadedModel, OllamaApi, OllamaInventory, unix_time
from joulebench.ollama.kv_cache import CacheSettings
from joulebench.units import Bytes
from tests.unit.exporter.ollama_server import LLAMA, FakeOllama, ollama_server


@pytest.fixture
def fake() -> Iterator[FakeOllama]:
    with ollama_server(FakeOllama()) as running:
        yield running


def read(fake: FakeOllama) -> OllamaInventory:
    with closing(OllamaApi(fake.url, timeout=0.3)) as api:
        return api.inventory()


def only_model(fake: FakeOllama) -> LoadedModel:
    loaded = read(fake).loaded
    assert loaded is not None
    (model,) = loaded
    return model


def test_a_usual_answer_is_read_whole(fake: FakeOllama) -> None:
    found = read(fake)
    assert (found.version, found.available) == ("0.17.4", ("llama3.1:8b", "qwen3:4b"))
    model = only_model(fake)
    assert model.name == "llama3.1:8b"
    assert (model.family, model.parameter_size, model.quantization) == ("llama", "8.0B", "Q4_K_M")
    assert (model.size, model.size_vram, model.context_length, model.offload) == (6e9, 4.5e9, 8192, 0.75)
    assert model.expires_at == pytest.approx(1_795_500_720.123456, abs=1e-6)


INVENTORY = [("GET", "/api/version"), ("GET", "/api/ps"), ("GET", "/api/tags")]
SHOWN = {
    "model_info": {
        "general.architecture": "llama",
        "llama.block_count": 32,
        "llama.embedding_length": 4096,
        "llama.attention.head_count": 32,
        "llama.attention.head_count_kv": 8,
    }
}


def test_a_models_metadata_is_asked_for_once_while_it_is_loaded(fake: FakeOllama) -> None:
    fake.bodies["/api/show"] = SHOWN
    with closing(OllamaApi(fake.url, timeout=0.3, cache=CacheSettings("q8_0"))) as api:
        for _ in range(3):
            (model,) = api.inventory().loaded or ()
            assert model.kv_cache == Bytes(544 * 2**20)
        assert fake.asked == [*INVENTORY, ("POST", "/api/show"), *INVENTORY, *INVENTORY]
        fake.bodies["/api/ps"] = {"models": [LLAMA | {"digest": "of another file"}]}
        api.inventory()
        assert fake.asked[-4:] == [*INVENTORY, ("POST", "/api/show")]


def test_metadata_that_fails_is_asked_for_again_and_holds_nothing_up(fake: FakeOllama) -> None:
    with closing(OllamaApi(fake.url, timeout=0.3)) as api:
        for body in (b"{", b"[]"):
            fake.bodies["/api/show"] = body
            (model,) = api.inventory().loaded or ()
            assert model.kv_cache is None
        fake.bodies["/api/show"] = SHOWN
        (model,) = api.inventory().loaded or ()
        assert model.kv_cache == Bytes(2**30)


@pytest.mark.parametrize("shown", [None, {}, {"model_info": {"general.architecture": "mamba"}}])
def test_a_server_or_model_without_usable_metadata_has_no_estimate_and_is_not_asked_again(
    fake: FakeOllama, shown: object
) -> None:
    if shown is not None:
        fake.bodies["/api/show"] = shown
    with closing(OllamaApi(fake.url, timeout=0.3)) as api:
        for _ in range(2):
            (model,) = api.inventory().loaded or ()
            assert model.kv_cache is None
        assert fake.asked.count(("POST", "/api/show")) == 1


@pytest.mark.parametrize("models", [None, []])
def test_no_model_loaded_is_an_empty_list_and_not_unknown(fake: FakeOllama, models: list[Any] | None) -> None:
    fake.bodies["/api/ps"] = {"models": models}
    assert read(fake).loaded == ()


def test_a_server_without_an_endpoint_leaves_that_part_unknown(fake: FakeOllama) -> None:
    del fake.bodies["/api/ps"], fake.bodies["/api/tags"]
    assert read(fake) == OllamaInventory("0.17.4", None, None)


def test_an_answer_without_the_list_leaves_that_part_unknown(fake: FakeOllama) -> None:
    fake.bodies["/api/ps"] = {"processes": []}
    fake.bodies["/api/tags"] = {"models": "many"}
    fake.bodies["/api/version"] = {"version": 17}
    assert read(fake) == OllamaInventory(None, None, None)


def test_an_entry_with_nothing_but_a_name_is_still_a_model(fake: FakeOllama) -> None:
    fake.bodies["/api/ps"] = {"models": [{"model": "tiny"}]}
    assert only_model(fake) == LoadedModel("tiny")


def test_fields_of_the_wrong_kind_are_unknown(fake: FakeOllama) -> None:
    fake.bodies["/api/ps"] = {
        "models": [
            LLAMA
            | {
                "size": "6 GB",
                "size_vram": -1,
                "context_length": True,
                "details": [],
                "expires_at": 5,
                "added_in_2030": {"x": 1},
            },
            "not a model",
            {"size": 4},
        ]
    }
    assert only_model(fake) == LoadedModel("llama3.1:8b", digest=str(LLAMA["digest"]))


def test_a_model_that_is_listed_twice_is_one_series(fake: FakeOllama) -> None:
    fake.bodies["/api/ps"] = {"models": [LLAMA | {"size": 1}, LLAMA]}
    assert only_model(fake).size == 6e9


@pytest.mark.parametrize(
    ("size", "vram", "ratio"),
    [(100, 25, 0.25), (100, 0, 0.0), (100, 100, 1.0), (0, 0, None), (None, 5, None), (5, None, None), (100, 101, None)],
)
def test_the_offload_ratio_is_absent_where_the_sizes_do_not_say(size: int | None, vram: int | None, ratio: float | None) -> None:
    model = LoadedModel("m", size=None if size is None else Bytes(size), size_vram=None if vram is None else Bytes(vram))
    assert model.offload == ratio


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-02T00:00:00Z", 86400.0),
        ("1970-01-02T00:00:00.5Z", 86400.5),
        ("1970-01-02T00:00:00.000000001Z", 86400.0),
        ("1970-01-02T02:00:00+02:00", 86400.0),
        ("1970-01-01T16:30:00.25-07:30", 86400.25),
        ("2318-01-01T00:00:00.854775807Z", 10981785600.854776),
        ("0001-01-01T00:00:00Z", None),
        ("1970-02-30T00:00:00Z", None),
        ("1970-01-02T00:00:00", None),
        ("soon", None),
        (None, None),
        (17, None),
    ],
)
def test_expiry_times_with_any_offset_and_nanoseconds(text: object, seconds: float | None) -> None:
    assert unix_time(text) == (None if seconds is None else pytest.approx(seconds, abs=2e-6))


def test_truncated_json_is_an_error(fake: FakeOllama) -> None:
    fake.bodies["/api/ps"] = b'{"models": [{"name": "llam'
    with pytest.raises(OllamaError, match="/api/ps"):
        read(fake)


def test_a_body_shorter_than_it_says_is_an_error(fake: FakeOllama) -> None:
    fake.claimed_length = 4000
    with pytest.raises(OllamaError, match="/api/version"):
        read(fake)


@pytest.mark.parametrize("body", [b"", b"Ollama is running", [1, 2], 7])
def test_anything_but_a_json_object_is_an_error(fake: FakeOllama, body: object) -> None:
    fake.bodies["/api/version"] = body
    with pytest.raises(OllamaError, match="/api/version"):
        read(fake)


@pytest.mark.parametrize("path", ["/api/version", "/api/ps", "/api/tags"])
@pytest.mark.parametrize(
    ("body", "reason"),
    [(b'{"models":' + b"[" * 100_000, "nested too deep"), (b'{"version": "' + b"x" * MAX_ANSWER_BYTES + b'"}', "more than")],
    ids=["deep", "large"],
)
def test_an_answer_beyond_all_bounds_is_an_error(fake: FakeOllama, path: str, body: bytes, reason: str) -> None:
    fake.bodies[path] = body
    with pytest.raises(OllamaError, match=reason):
        read(fake)


def test_names_fit_labels_and_numbers_that_no_model_has_are_unknown(fake: FakeOllama) -> None:
    fake.bodies["/api/version"] = {"version": "0.17\n" + "4" * 10**6}
    entry = '{"name": "a\\ud800%s", "details": {"family": "%s"}, "size": 1%s, "size_vram": 1e999, "context_length": 1%s}'
    fake.bodies["/api/ps"] = ('{"models": [%s]}' % (entry % ("b" * 10**6, "c" * 10**6, "0" * 400, "0" * 12))).encode()
    found = read(fake)
    assert found.version is not None
    assert len(found.version) == MAX_LABEL_LENGTH
    assert found.version.startswith("0.17 444")
    (model,) = found.loaded or ()
    assert (len(model.name), len(model.family)) == (MAX_LABEL_LENGTH, MAX_LABEL_LENGTH)
    assert model.name.startswith("a?bbb")
    assert (model.size, model.size_vram, model.context_length) == (None, None, None)


def test_a_list_of_more_models_than_series_are_shown_for_is_unknown(fake: FakeOllama) -> None:
    models = [{"name": f"m{number}"} for number in range(MAX_MODELS + 1)]
    fake.bodies["/api/ps"], fake.bodies["/api/tags"] = {"models": models[1:]}, {"models": models}
    found = read(fake)
    assert (len(found.loaded or ()), found.available) == (MAX_MODELS, None)


@pytest.mark.parametrize("status", [401, 500, 503])
def test_a_refusal_is_an_error(fake: FakeOllama, status: int) -> None:
    fake.status = status
    with pytest.raises(OllamaError, match=str(status)):
        read(fake)


def test_a_server_that_does_not_answer_in_time_is_an_error(fake: FakeOllama) -> None:
    fake.open.clear()
    with pytest.raises(OllamaError, match="timed out"):
        read(fake)


def test_a_server_that_is_gone_is_an_error() -> None:
    with ollama_server(FakeOllama()) as fake:
        pass
    with pytest.raises(OllamaError, match="/api/version"):
        read(fake)
