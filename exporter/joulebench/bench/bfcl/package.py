"""The installed ``bfcl-eval``: its data files and, of its code, checkers and simulators. The only ``import bfcl_eval``.

Its requirements are the client libraries of every vendor on its leaderboard. Nothing here needs them, so the package is installed
without, and the one module that would import them all is stood in for while the checker is imported.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

from joulebench.errors import UserError

INSTALL = "pip install --no-deps bfcl-eval==2026.3.23 mpmath==1.4.1"
PREFIX = "BFCL_v4_"

Entry = dict[str, Any]
Verdict = Mapping[str, Any]

_MODEL_TABLE = "bfcl_eval.constants.model_config"
_BACKENDS = "bfcl_eval.constants.executable_backend_config"
_MODEL = "joulebench"
"""The checker asks this one thing of a model: whether names with a dot were shown to it with an underscore."""


def data_folder() -> Path:
    """Raises UserError where the package is missing."""
    found = importlib.util.find_spec("bfcl_eval")
    for place in (found.submodule_search_locations or ()) if found is not None else ():
        return Path(place) / "data"
    raise UserError(f"--suite bfcl: the package bfcl-eval is not installed here; install with: {INSTALL}")


def entries(category: str) -> list[Entry]:
    return _lines(data_folder() / f"{PREFIX}{category}.json")


def answers(category: str) -> dict[str, Any]:
    """What the checker compares with, by the id of the entry."""
    path = data_folder() / "possible_answer" / f"{PREFIX}{category}.json"
    return {str(line["id"]): line["ground_truth"] for line in _lines(path)}


def function_docs(class_name: str) -> list[Entry]:
    """The functions of one simulator, as they are declared to a model."""
    files = _attribute(_BACKENDS, "MULTI_TURN_FUNC_DOC_FILE_MAPPING")
    return _lines(data_folder() / "multi_turn_func_doc" / files[class_name])


def check_calls(
    functions: Sequence[Entry], calls: Sequence[Mapping[str, object]], answer: Sequence[Any], category: str
) -> tuple[bool, str]:
    """The verdict of the package's own checker on ``[{name: arguments}, ...]``, and what it says of a wrong call."""
    checker, python = _ast_checker()
    verdict: Verdict = checker(list(functions), list(calls), list(answer), python, category, _MODEL)
    return bool(verdict["valid"]), _reason(verdict)


def simulators(entry: Entry) -> dict[str, object]:
    """Fresh simulators of the entry in its starting state, by class name. Raises UserError for a missing part."""
    modules = _attribute(_BACKENDS, "CLASS_FILE_PATH_MAPPING")
    stateless = _attribute(_BACKENDS, "STATELESS_CLASSES")
    made: dict[str, object] = {}
    for name in entry["involved_classes"]:
        try:
            made[name] = instance = _attribute(modules[name], name)()
        except ImportError as error:
            raise UserError(f"--suite bfcl: the simulator {name} needs {error.name}; install with: {INSTALL}") from error
        if name not in stateless:
            # The scenario becomes the simulator's own, so each gets a copy.
            instance._load_scenario(deepcopy(entry["initial_config"].get(name, {})), long_context=False)
    return made


def check_turns(entry: Entry, turns: Sequence[Sequence[Sequence[str]]], answer: Sequence[Any], attempt: str) -> tuple[bool, str]:
    """The verdict of the multi-turn checker on the calls of each step of each turn, written as Python calls.

    It runs them again on simulators of its own, which it keeps by the name ``attempt``: one name for each grading.
    """
    utilities = importlib.import_module("bfcl_eval.eval_checker.multi_turn_eval.multi_turn_utils")
    checker = _attribute("bfcl_eval.eval_checker.multi_turn_eval.multi_turn_checker", "multi_turn_checker")
    before = set(vars(utilities))
    try:
        verdict: Verdict = checker([list(map(list, turn)) for turn in turns], list(answer), entry, "multi_turn_base", attempt)
    finally:
        for name in set(vars(utilities)) - before:
            delattr(utilities, name)
    return bool(verdict["valid"]), _reason(verdict)


@cache
def _ast_checker() -> tuple[Any, Any]:
    data_folder()
    stand_in = ModuleType(_MODEL_TABLE)
    stand_in.__dict__["MODEL_CONFIG_MAPPING"] = {_MODEL: SimpleNamespace(underscore_to_dot=True)}
    known = sys.modules.get(_MODEL_TABLE)
    sys.modules[_MODEL_TABLE] = stand_in
    try:
        checker = _attribute("bfcl_eval.eval_checker.ast_eval.ast_checker", "ast_checker")
    finally:
        del sys.modules[_MODEL_TABLE]
        if known is not None:
            sys.modules[_MODEL_TABLE] = known
    return checker, _attribute("bfcl_eval.constants.enums", "Language").PYTHON


def _attribute(module: str, name: str) -> Any:
    data_folder()
    return getattr(importlib.import_module(module), name)


def _lines(path: Path) -> list[Entry]:
    try:
        with path.open(encoding="utf-8") as lines:
            return [cast(Entry, json.loads(line)) for line in lines if line.strip()]
    except (OSError, ValueError) as error:
        raise UserError(f"--suite bfcl: {path} of bfcl-eval cannot be read ({error}); install with: {INSTALL}") from error


def _reason(verdict: Verdict) -> str:
    if verdict["valid"]:
        return ""
    error = verdict.get("error") or verdict.get("error_message") or verdict.get("error_type") or "wrong"
    return "; ".join(map(str, error)) if isinstance(error, list) else str(error)
