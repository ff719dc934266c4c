"""llama.cpp in this process, by llama-cpp-python: the only ``import llama_cpp``. Evaluates tokens, plain or with a stopwatch."""

from __future__ import annotations

import contextlib
import ctypes
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from joulebench.clock import Clock
from joulebench.errors import ModelError, UserError
from joulebench.profile.stopwatch import Stopwatch

_LOG_ERROR = 4
INSTALL = "pip install 'joulebench[profile]' (it builds llama.cpp: a C++ compiler, cmake, some minutes)"
_TEXT = (
    "The river came down from the hills in the spring and filled the low fields. People moved their animals, counted what was"
    " left in the barns, and wrote the date on the wall of the mill, as they had done in other years. def area(width, height):"
    " return width * height. In 1897 the water stood 3.4 metres above the stone; nobody who saw it forgot it. "
)


@dataclass(frozen=True, slots=True)
class LlamaSettings:
    """``gpu_layers``: how many are put on the GPU, all for -1. ``threads``: None leaves it to llama.cpp."""

    context: int
    gpu_layers: int = -1
    threads: int | None = None


class LlamaModel:
    """A loaded model file. Raises UserError where llama-cpp-python is missing or llama.cpp cannot load the file."""

    def __init__(self, path: Path, settings: LlamaSettings) -> None:
        try:
            import llama_cpp
            from llama_cpp._ggml import libggml
        except ImportError as error:
            raise UserError(f"profile needs {error.name}, not installed here; install with: {INSTALL}") from error
        self._lib: Any = llama_cpp
        self._name: Any = ctypes.CFUNCTYPE(ctypes.c_char_p, ctypes.c_void_p)(("ggml_get_name", libggml))
        self._settings = settings
        self._said: deque[str] = deque(maxlen=5)
        # Held by the object: llama.cpp goes on calling it.
        self._log = llama_cpp.llama_log_callback(self._take_down)
        llama_cpp.llama_log_set(self._log, None)
        llama_cpp.llama_backend_init()
        parameters = llama_cpp.llama_model_default_params()
        parameters.n_gpu_layers = settings.gpu_layers
        self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
        if not self._model:
            raise UserError(f"{path}: llama.cpp cannot load it: {self._last_words()}")
        self.layers = int(llama_cpp.llama_model_n_layer(self._model))

    @property
    def described(self) -> str:
        """As llama.cpp names architecture, size and quantisation."""
        buffer = ctypes.create_string_buffer(256)
        self._lib.llama_model_desc(self._model, buffer, len(buffer))
        return buffer.value.decode("utf-8", "replace")

    @property
    def on_gpu(self) -> bool:
        return bool(self._lib.llama_supports_gpu_offload()) and self._settings.gpu_layers != 0

    def tokens(self, count: int) -> list[int]:
        """That many tokens of an ordinary text: with a mixture of experts, which layers work depends on it."""
        vocabulary, text = self._lib.llama_model_get_vocab(self._model), _TEXT.encode()
        room = (self._lib.llama_token * len(text))()
        found = int(self._lib.llama_tokenize(vocabulary, text, len(text), room, len(text), False, False))
        if found <= 0:
            raise UserError("the model file has no usable vocabulary; give one of a text model")
        return [int(room[number % found]) for number in range(count)]

    @contextlib.contextmanager
    def context(self, stopwatch: Stopwatch | None = None) -> Iterator[LlamaContext]:
        """Raises ModelError where there is no memory for one."""
        parameters = self._lib.llama_context_default_params()
        # A batch as long as the context: a prompt is then one graph, and not several that would be timed as one.
        parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = self._settings.context
        if self._settings.threads is not None:
            parameters.n_threads = parameters.n_threads_batch = self._settings.threads
        callback = None
        if stopwatch is not None:
            callback = parameters.cb_eval = self._lib.ggml_backend_sched_eval_callback(stopwatch)
        made = self._lib.llama_init_from_model(self._model, parameters)
        if not made:
            raise ModelError(f"llama.cpp cannot make a context of {self._settings.context} tokens: {self._last_words()}")
        try:
            yield LlamaContext(self._lib, made, stopwatch, callback)
        finally:
            self._lib.llama_free(made)

    def name_of(self, node: int) -> str:
        return (self._name(node) or b"").decode("utf-8", "replace")

    def close(self) -> None:
        self._lib.llama_model_free(self._model)

    def _take_down(self, level: int, said: bytes, _: object) -> None:
        if level == _LOG_ERROR and said.strip():
            self._said.append(said.decode("utf-8", "replace").strip())

    def _last_words(self) -> str:
        return "; ".join(self._said) or "it does not say why"


class LlamaContext:
    def __init__(self, lib: Any, made: Any, stopwatch: Stopwatch | None, callback: Any) -> None:
        self._lib, self._made, self._stopwatch = lib, made, stopwatch
        # Held as long as llama.cpp may call it.
        self._callback = callback

    def clear(self) -> None:
        """Forget all tokens."""
        self._lib.llama_memory_clear(self._lib.llama_get_memory(self._made), True)

    def evaluate(self, tokens: Sequence[int], clock: Clock) -> float:
        """Seconds until the logits of the last token are there."""
        # Kept in a name of its own: the batch only points to it.
        held = (self._lib.llama_token * len(tokens))(*tokens)
        batch = self._lib.llama_batch_get_one(held, len(tokens))
        begun = clock.monotonic()
        if self._stopwatch is not None:
            self._stopwatch.start(begun)
        status = self._lib.llama_decode(self._made, batch)
        self._lib.llama_synchronize(self._made)
        took = clock.monotonic() - begun
        if status != 0:
            raise ModelError(f"llama.cpp could not evaluate {len(tokens)} tokens (status {status})")
        return took
