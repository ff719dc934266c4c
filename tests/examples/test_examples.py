"""Every example runs as it is written, on the real client packages, and leaves the results that it is about."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from joulebench import cli
from joulebench.schema import TaskResult, load_results
from joulebench.stack.native import NativeStack, Ports
from tests.contract.sources import ROOT
from tests.fakes.model_server import ModelServer
from tests.fakes.model_turns import MODEL, Json, Turn, call, say
from tests.needs import need_program

EXAMPLES = ROOT / "examples"
BY_HAND = Path(__file__).parent / "by_hand"
"""What adapters take the place of, with the same results."""


def need_package(name: str) -> None:
    """Skips without importing the package: other tests check that nothing of ours does."""
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")


def run_example(name: str | Path, directory: Path, *arguments: str, **environment: str) -> str:
    """Returns what the example printed. It finds no Prometheus, Pushgateway or exporter."""
    none = {f"JOULEBENCH_{server}_URL": "none" for server in ("GATEWAY", "PROMETHEUS", "EXPORTER")}
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *arguments],
        cwd=directory,
        env={**os.environ, **none, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def exported(printed: str, directory: Path) -> dict[str, TaskResult]:
    """The results of the export that an example names, by task."""
    run_id = printed.rpartition("--run-id ")[2].strip()
    assert cli.main(["export", "--run-id", run_id, "--runs-dir", str(directory / "runs"), "--prometheus-url", "none"]) == 0
    return {str(result.metadata.task_name): result for result in load_results([directory / "runs" / run_id])}


def test_a_benchmark_of_ones_own(tmp_path: Path) -> None:
    results = exported(run_example("own_benchmark.py", tmp_path), tmp_path)
    assert {name: result.computed_metrics.task_completion_status.status for name, result in results.items()} == {
        "add": "success",
        "multiply": "success",
        "divide": "failure",
    }
    usage = results["divide"].computed_metrics.tool_usage_stats
    assert usage.total_tool_calls == 1


def test_the_openai_client_streamed(tmp_path: Path) -> None:
    need_package("openai")
    with ModelServer([call("get_weather", city="Paris")]) as server:
        environment = {"OPENAI_BASE_URL": server.openai_url, "OPENAI_API_KEY": "none", "MODEL": MODEL}
        results = exported(run_example("openai_client.py", tmp_path, **environment), tmp_path)
        (exchange,) = server.served
    (result,) = results.values()
    metrics = result.computed_metrics
    assert exchange.body["stream"] is True
    assert metrics.llm_token_usage.total_prompt_tokens == 100
    assert metrics.tool_confidence_metrics.tool_calls_with_confidence == 1
    assert metrics.tool_confidence_metrics.min_tool_confidence == pytest.approx(0.99, abs=0.02)


def test_the_ollama_client_recorded(tmp_path: Path) -> None:
    need_package("ollama")
    turn = say("silicon hums low")
    with ModelServer([turn]) as server:
        results = exported(run_example("ollama_client.py", tmp_path, OLLAMA_HOST=server.ollama_url, MODEL=MODEL), tmp_path)
    (result,) = results.values()
    usage = result.computed_metrics.llm_token_usage
    assert (usage.total_prompt_tokens, usage.total_completion_tokens) == (turn.prompt_tokens, turn.completion_tokens)


WORDS = {"Say one.": say("one"), "Say nine.": say("eight")}


def answer_words(body: Json) -> Turn:
    messages = body["messages"]
    assert isinstance(messages, list)
    return WORDS.get(str(messages[-1]["content"]), say("one two three"))


def statuses(results: dict[str, TaskResult]) -> dict[str, str]:
    return {name: str(result.computed_metrics.task_completion_status.status) for name, result in results.items()}


def completion_tokens(results: dict[str, TaskResult]) -> list[int | None]:
    return [result.computed_metrics.llm_token_usage.total_completion_tokens for result in results.values()]


@pytest.mark.parametrize(
    ("package", "name", "expected"),
    [
        ("openai", "instrumented.py", {"count to 3": "success", "count to 5": "success"}),
        ("inspect_ai", "inspect_samples.py", {"words/one": "success", "words/nine": "failure"}),
        ("langchain_openai", "langchain_handler.py", {"count": "success"}),
        ("litellm", "litellm_callback.py", {"count": "success"}),
    ],
)
@pytest.mark.parametrize("folder", [EXAMPLES, BY_HAND], ids=["adapter", "by hand"])
def test_what_is_recorded_by_itself_is_what_is_recorded_by_hand(
    folder: Path, package: str, name: str, expected: dict[str, str], tmp_path: Path
) -> None:
    need_package(package)
    with ModelServer(answer_words) as server:
        addresses = ("OPENAI_BASE_URL", "SERVER_BASE_URL", "HOSTED_VLLM_API_BASE")
        environment: dict[str, str] = {
            **dict.fromkeys(addresses, server.openai_url),
            **dict.fromkeys(("OPENAI_API_KEY", "SERVER_API_KEY"), "none"),
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        }
        results = exported(run_example(folder / name, tmp_path, MODEL=MODEL, **environment), tmp_path)
        sent = len(server.served)
    assert statuses(results) == expected
    assert sent == len(expected)
    tokens = [len(text.split()) for text in (["one", "eight"] if package == "inspect_ai" else ["one two three"] * sent)]
    assert sorted(filter(None, completion_tokens(results))) == sorted(tokens)
    times = [result.computed_metrics.ttft_metrics for result in results.values()]
    assert all((metrics.average_ttft_ms is not None) == (package == "langchain_openai") for metrics in times)


@pytest.mark.parametrize(("folder", "option"), [(EXAMPLES, "--joulebench"), (EXAMPLES, "--verbose"), (BY_HAND, "--verbose")])
def test_tests_as_tasks(folder: Path, option: str, tmp_path: Path) -> None:
    need_package("openai")
    with ModelServer(answer_words) as server:
        environment = {
            "OPENAI_BASE_URL": server.openai_url,
            "OPENAI_API_KEY": "none",
            "MODEL": MODEL,
            "JOULEBENCH_RUN_ID": "tests",
        }
        none = {f"JOULEBENCH_{name}_URL": "none" for name in ("GATEWAY", "PROMETHEUS", "EXPORTER")}
        command = [sys.executable, "-m", "pytest", "-q", option, "-p", "no:cacheprovider", "--rootdir", str(tmp_path)]
        done = subprocess.run(
            [*command, folder / "pytest_tasks.py"],
            cwd=tmp_path,
            env={**os.environ, **none, **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )
    assert done.returncode == 1, done.stdout
    assert "1 failed, 1 passed" in done.stdout
    assert ("joulebench export --run-id tests" in done.stdout) == (option == "--joulebench")
    if folder is EXAMPLES and option == "--verbose":
        assert not (tmp_path / "runs").exists()
        return
    results = exported("--run-id tests", tmp_path)
    assert {name.rpartition("::")[2]: status for name, status in statuses(results).items()} == {
        "test_the_model_says[one]": "success",
        "test_the_model_says[nine]": "failure",
    }
    assert completion_tokens(results) == [1, 1]


def lines_of_code(file: Path) -> int:
    code = file.read_text(encoding="utf-8")
    code = code.split('"""', 2)[2] if code.startswith('"""') else code
    return len([line for line in code.splitlines() if line.strip()])


def test_an_adapter_takes_few_lines_and_the_table_says_how_many() -> None:
    files = sorted(BY_HAND.glob("*.py"))
    counts = {file.name: (lines_of_code(file), lines_of_code(EXAMPLES / file.name)) for file in files}
    assert max(after for _, after in counts.values()) <= 15
    rows = [f"| [{name}](../examples/{name}) | {before} | {after} |" for name, (before, after) in counts.items()]
    assert "\n".join(rows) in (ROOT / "docs/LIBRARY.md").read_text(encoding="utf-8"), "the rows are:\n" + "\n".join(rows)


def test_a_client_through_the_proxy(tmp_path: Path) -> None:
    need_package("openai")
    from tests.unit.proxy.test_process import process, proxy_flags

    with (
        ModelServer([say("one two three"), say("one two")]) as server,
        process("proxy", *proxy_flags(server.ollama_url)) as (_, url),
    ):
        printed = run_example("through_the_proxy.py", tmp_path, PROXY_URL=url, MODEL=MODEL)
    assert printed.split() == ["first", "3", "second", "2"]


def test_results_with_pandas(tmp_path: Path) -> None:
    table = tmp_path / "results.csv"
    table.write_text(
        "task_id,model_name,quality,success,total_energy_joules,avg_power_w\n"
        "a,small,ok,True,100,50\nb,small,ok,False,300,150\nc,large,ok,True,500,300\nd,large,suspect,True,9000,300\n",
        encoding="utf-8",
    )
    printed = run_example("results_with_pandas.py", tmp_path, str(table))
    assert "3 of 4 tasks have joules of quality ok" in printed
    rows = {line.split()[0]: line.split()[1:] for line in printed.splitlines()[2:]}
    assert rows["small"] == ["2", "0.5", "400", "100.0", "400.0"]
    assert rows["large"] == ["1", "1.0", "500", "300.0", "500.0"]


def test_every_example_is_in_the_list_and_run() -> None:
    tests = Path(__file__).read_text(encoding="utf-8")
    listing = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    for path in EXAMPLES.glob("*.py"):
        assert f"]({path.name})" in listing
        assert f'"{path.name}"' in tests


@pytest.mark.e2e
def test_a_report_with_simulated_meters_of_cpu_and_wall(tmp_path: Path) -> None:
    for package in ("scipy", "plotly"):
        need_package(package)
    for program in ("prometheus", "pushgateway"):
        need_program(program)
    turns = [call("list_files"), say("nothing")]
    flags = ["--gpu-source", "simulated"]
    stack = NativeStack(tmp_path / "stack", Ports.free(), flags, with_alertmanager=False)
    with ModelServer(turns) as server, stack:
        environment = {
            "JOULEBENCH_GATEWAY_URL": stack.gateway_url,
            "JOULEBENCH_PROMETHEUS_URL": stack.prometheus_url,
            "JOULEBENCH_EXPORTER_URL": stack.exporter_url,
        }
        bench = ("--base-url", server.openai_url, "--model", MODEL, "--tasks", "list-files", "--idle-seconds", "3")
        printed = run_example("whole_machine.py", tmp_path, *bench, **environment)
    page = Path(printed.rpartition("written to ")[2].strip())
    (result,) = load_results([tmp_path / page.parent])
    assert {name: (meter.scope, meter.simulated) for name, meter in result.meters.items()} == {
        "cpu": ("cpu", True),
        "plug": ("wall", True),
    }
    assert (result.emissions["carbon"].of, result.emissions["carbon"].simulated) == ("wall", True)
    text = (tmp_path / page).read_text(encoding="utf-8")
    assert "SIMULATED GPU" in text
    assert "made up for this example" in text
