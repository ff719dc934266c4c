"""``joulebench analyze``: finished runs compared, reported on, checked, and searched for what limits their models."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from joulebench import prices
from joulebench.cli import options
from joulebench.clock import SystemClock
from joulebench.errors import PrometheusError, UserError
from joulebench.meters import parse_scopes
from joulebench.parsing import printable_text

if TYPE_CHECKING:
    from joulebench.analysis.bottlenecks.tasks import TaskRun
    from joulebench.analysis.runs import RunResults

ALLOW = ("suite", "simulated", "basis", "throttled", "overlap", "suspect")
"""As in analysis.comparison, whose scipy the help does not need."""

runs_argument = click.argument("runs", nargs=-1, required=True, type=options.PATH, metavar="RUN...")
allow_option = click.option(
    "--allow",
    multiple=True,
    type=click.Choice(ALLOW),
    help="Compare although suites differ, only some joules are simulated or devices are known in different ways (basis), or"
    " count attempts that were throttled, overlapped by others or suspect; may be repeated.",
)


@click.group("analyze", cls=options.CommandGroup)
def analyze_command() -> None:
    """Compare and check finished runs, report on them, and find what limits a model and what predicts its failures."""


@analyze_command.command("compare", short_help="Compare runs and models task by task.")
@click.argument("runs", nargs=-1, required=True, metavar="RUN[@MODEL]...")
@allow_option
@click.option(
    "--scope",
    default="gpu",
    metavar="SCOPE[+SCOPE...]",
    help="Whose joules count: gpu, or what --meters of the export measured, such as wall or gpu+cpu+dram.",
)
@options.format_option("text", "json")
def compare(runs: tuple[str, ...], allow: tuple[str, ...], scope: str, output_format: str) -> int:
    """Compare runs and models task by task: joules per success and more, with intervals, or why they cannot be compared.

    RUN is the directory of an exported run, as runs/RUN_ID, or of backfilled result files of the MCPWorld client, or result files
    themselves; every model of a run is compared, or only MODEL, and a model that ran with several settings counts as several.
    Exits with 0 where all pairs were compared, with 1 where a pair was refused, with 2 where it was refused because its devices
    are known in different ways.
    """
    from joulebench.analysis.comparison import arms_of_runs, parse_selection
    from joulebench.analysis.comparison import compare as compare_arms
    from joulebench.analysis.emissions import emission_rows, emissions_text
    from joulebench.analysis.runs import choose_scopes, load_runs
    from joulebench.analysis.text import comparison_text, comparison_values

    scopes = parse_scopes(scope)
    selections = groupby(map(parse_selection, runs), key=itemgetter(1))
    arms = arms_of_runs(
        [(choose_scopes(run, scopes), model) for model, group in selections for run in load_runs([path for path, _ in group])]
    )
    comparison = compare_arms(arms, allow, scopes)
    emissions = emission_rows(arms)
    if output_format == "json":
        print(json.dumps({**comparison_values(comparison), "emissions": emissions}, indent=1))
    else:
        print(printable_text("\n\n".join(filter(None, (comparison_text(comparison), emissions_text(emissions))))))
    return 2 if comparison.differing_bases else 1 if comparison.refused else 0


@analyze_command.command("report", short_help="Write an HTML report that compares finished runs.")
@runs_argument
@options.format_option("html", "json", "md", "csv", help_="Format of the report; html needs jinja2 and plotly.")
@click.option(
    "--out",
    type=options.FILE,
    help="[default: report.html in the first run's directory for html, else standard output]",
)
@options.connections_option()
@click.option(
    "--prometheus-url",
    type=options.URL,
    help="Prometheus with the power, utilization and temperature of timelines.  [default: means from the result files]",
)
@click.option(
    "--prices.file",
    "prices_file",
    type=options.FILE,
    help="Price list.  [default: the price list that Joulebench ships]",
)
@click.option(
    "--utilization",
    type=options.Number(float, 0, 1, above=True, name="SHARE"),
    default=0.25,
    help="Share of its hours in which the machine is busy (0-1).",
)
@click.option(
    "--no-cache", is_flag=True, help="Cost of APIs as if no prompt token were cached.  [default: the cached share of the run]"
)
@allow_option
def report(
    runs: tuple[Path, ...],
    output_format: str,
    out: Path | None,
    prometheus_url: str | None,
    prices_file: Path | None,
    utilization: float,
    no_cache: bool,
    allow: tuple[str, ...],
) -> int:
    """Write an HTML report that compares finished runs, with costs and exclusions, or its numbers as JSON, Markdown or CSV.

    RUN is the directory of an exported run, as runs/RUN_ID, or of backfilled result files of the MCPWorld client, or result files
    themselves.
    """
    from joulebench.analysis.report.content import build_content, load_failures, load_findings
    from joulebench.analysis.report.formats import report_csv, report_json, report_markdown
    from joulebench.analysis.report.timelines import timeline_values
    from joulebench.analysis.runs import load_runs
    from joulebench.files import write_atomic

    is_html = output_format == "html"
    loaded = load_runs(runs, timelines=is_html)
    if prometheus_url and is_html:
        loaded = _with_samples(loaded, prometheus_url)
    created = f"{datetime.fromtimestamp(SystemClock().unix(), tz=timezone.utc):%Y-%m-%d %H:%M} UTC"
    content = build_content(
        loaded,
        _prices(prices_file),
        utilization,
        allow,
        created,
        findings=load_findings(runs),
        failures=load_failures(runs),
        cache=not no_cache,
    )
    match output_format:
        case "html":
            from joulebench.analysis.report.page import render_page

            text = render_page(content, timeline_values(loaded))
        case "json":
            text = report_json(content)
        case "md":
            text = report_markdown(content)
        case _:
            text = report_csv(content)
    path = out or (loaded[0].directory / "report.html" if is_html else None)
    if path is None:
        print(printable_text(text) if output_format == "md" else text, end="")
        return 0
    write_atomic(path, text)
    print(printable_text("\n".join(content["summary"])))
    print(f"written to {path}")
    return 0


def _with_samples(loaded: list[RunResults], url: str) -> list[RunResults]:
    """Returns the runs with stored samples, and unchanged where Prometheus fails, which is printed."""
    from joulebench.analysis.report.timelines import add_samples, timeline_windows
    from joulebench.clients.prometheus import PrometheusApi
    from joulebench.results.fetch import fetch_samples

    try:
        return add_samples(loaded, fetch_samples(PrometheusApi(url, patience=0.0), timeline_windows(loaded)))
    except PrometheusError as error:
        print(f"timelines without stored samples: {error}", file=sys.stderr)
        return loaded


def _prices(path: Path | None) -> prices.PriceList:
    from joulebench.stack.data_files import data_path

    return prices.load(data_path("prometheus/prices.yml") if path is None else path)


@analyze_command.command("doctor", short_help="Check whether finished results can be believed.")
@click.argument("results", type=options.DIRECTORY, metavar="RESULTS")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.option("--strict", is_flag=True, help="Exit with 1 for warnings too.")
@click.option("--idle-watts", type=options.WATTS, help="Idle power of all GPUs together.  [default: from the files]")
@click.option(
    "--limit-watts",
    type=options.WATTS,
    help="Power limit of all GPUs together.  [default: from the files, else by the names of the cards]",
)
def doctor(results: Path, as_json: bool, strict: bool, idle_watts: float | None, limit_watts: float | None) -> int:
    """Check whether finished results can be believed, and say how to fix what cannot.

    RESULTS is a directory with result_*.json, of our benchmark or of the MCPWorld client. Exits with 0 where nothing is wrong,
    with 1 where a check failed.
    """
    from joulebench.doctor.examine import examine_results
    from joulebench.doctor.findings import FAILURE, WARNING
    from joulebench.doctor.plausibility_checks import KnownPower

    checked = examine_results(results, KnownPower(idle_watts, limit_watts))
    if as_json:
        print(json.dumps(checked.data(), indent=2, allow_nan=False))
    else:
        for line in checked.lines():
            print(printable_text(line))
    return 1 if checked.verdict in ((FAILURE, WARNING) if strict else (FAILURE,)) else 0


@analyze_command.command("confidence", short_help="Test whether the confidence of tool calls predicts failures.")
@runs_argument
@options.format_option("text", "json")
@click.option("--plot", type=options.FILE, metavar="FILE.html", help="Write reliability diagrams to this page; needs plotly.")
def confidence(runs: tuple[Path, ...], output_format: str, plot: Path | None) -> int:
    """Test whether the confidence of tool calls predicts that they fail.

    For each model, every confidence measure against every outcome: AUROC with its interval, Brier, ECE, AURC. Refused, with exit
    code 1, where there are fewer than 50 failures. Needs scikit-learn: pip install 'joulebench[analysis]'
    """
    from joulebench.analysis.prediction.confidence import confidence_reports
    from joulebench.analysis.prediction.records import load_task_records
    from joulebench.analysis.prediction.text import confidence_text

    _require_directories(runs)
    reports = confidence_reports(load_task_records(runs))
    if output_format == "json":
        print(json.dumps([asdict(report) for report in reports], indent=1))
    else:
        print(printable_text(confidence_text(reports)))
    if plot:
        from joulebench.analysis.report.figures import confidence_page
        from joulebench.files import write_atomic

        write_atomic(plot, confidence_page(reports), option="--plot")
    return 1 if any(report.refused for report in reports) else 0


@analyze_command.command("failures", short_help="Predict how likely each task is to fail.")
@runs_argument
@options.format_option("text", "json", "csv", help_="csv: failure_risk of each task, to be joined on run_id and task_id.")
def failures(runs: tuple[Path, ...], output_format: str) -> int:
    """Predict how likely each task is to fail from the confidence of its calls, and show where its confidence is low.

    For each model the risk of failure of every task, predicted from other tasks, with AUROC, Brier score, its skill and the
    reliability of the risks; confidence by tool and by task; the tool calls of lowest confidence with their text. Refused, with
    exit code 1, where there are fewer than 50 failures. Needs scikit-learn: pip install 'joulebench[analysis]'
    """
    from joulebench.analysis.prediction.failures import predict_failures
    from joulebench.analysis.prediction.low_confidence import summarize_low_confidence
    from joulebench.analysis.prediction.records import load_task_records
    from joulebench.analysis.prediction.text import failure_values, failures_text, risks_csv

    _require_directories(runs)
    tasks = load_task_records(runs)
    predictions = predict_failures(tasks)
    match output_format:
        case "csv":
            print(risks_csv(predictions), end="")
        case "json":
            print(json.dumps(failure_values(predictions, summarize_low_confidence(tasks)), indent=1, allow_nan=False))
        case _:
            print(printable_text(failures_text(predictions, summarize_low_confidence(tasks))))
    return 1 if any(prediction.refused for prediction in predictions) else 0


Sizes = Mapping[str, Mapping[str, float]]
DataAndLines = tuple[list[dict[str, Any]], list[str]]

weights_option = click.option(
    "--weights", multiple=True, metavar="MODEL=FILE|BYTES", help="Size of a model's weights; may be repeated."
)
kv_token_option = click.option(
    "--kv-token", multiple=True, metavar="MODEL=BYTES", help="Bytes of one token in a model's KV cache; may be repeated."
)


@analyze_command.command("bottlenecks", short_help="Show where the time of tasks goes, and what to try.")
@runs_argument
@weights_option
@kv_token_option
@options.format_option("text", "json")
def bottlenecks(runs: tuple[Path, ...], weights: tuple[str, ...], kv_token: tuple[str, ...], output_format: str) -> int:
    """Show where the time of tasks goes, what the card could do, and what to try.

    For each model the share of time in which the GPU waited for tools, queue or agent, prefill, decode and load; decode against
    the memory bandwidth of known cards; free VRAM; power and thermal limits. Each finding has its evidence.
    """
    sizes = {"weights": _sizes(weights, "--weights"), "kv_token": _sizes(kv_token, "--kv-token")}
    return _print_limits(runs, _bottlenecks, sizes, output_format)


@analyze_command.command("throttling", short_help="Compare decode rates inside and outside of throttled spans.")
@runs_argument
@options.format_option("text", "json")
def throttling(runs: tuple[Path, ...], output_format: str) -> int:
    """Compare the decode rate inside and outside of throttled spans, and show what was lost.

    Rates by model with 95 % intervals, seconds and tokens lost, temperature at onset, tasks excluded for it.
    """
    return _print_limits(runs, _throttling, {}, output_format)


@analyze_command.command("balance", short_help="Show how evenly several GPUs work.")
@runs_argument
@options.format_option("text", "json")
def balance(runs: tuple[Path, ...], output_format: str) -> int:
    """Show how evenly several GPUs work.

    Utilization, power, VRAM and joules of each GPU, imbalance by task, and how long a card was idle beside a busy card.
    """
    return _print_limits(runs, _balance, {}, output_format)


@analyze_command.command("kv-cache", short_help="Show the context after each turn, its bytes, and leaks.")
@runs_argument
@kv_token_option
@options.format_option("text", "json")
def kv_cache(runs: tuple[Path, ...], kv_token: tuple[str, ...], output_format: str) -> int:
    """Show the context after each turn, its bytes, and memory that grows where tokens do not.

    Tokens by turn; bytes by the size of a token where it is given, else by the growth of VRAM; suspected leaks.
    """
    return _print_limits(runs, _kv_cache, {"kv_token": _sizes(kv_token, "--kv-token")}, output_format)


def _require_directories(runs: Sequence[Path]) -> None:
    for directory in runs:
        if not directory.exists():
            raise UserError(f"{directory} is no directory; give the directory of an exported run, as runs/RUN_ID")


def _print_limits(
    runs: Sequence[Path], analyze: Callable[[Sequence[TaskRun], Sizes], DataAndLines], sizes: Sizes, output_format: str
) -> int:
    """Findings are advice and no failure: returns 0."""
    from joulebench.analysis.bottlenecks.tasks import load_task_runs

    _require_directories(runs)
    data, lines = analyze(load_task_runs(runs), sizes)
    print(json.dumps(data, indent=1, allow_nan=False) if output_format == "json" else printable_text("\n".join(lines)))
    return 0


def _bottlenecks(tasks: Sequence[TaskRun], sizes: Sizes) -> DataAndLines:
    from joulebench.analysis.bottlenecks.bottlenecks import ModelSizes, find_bottlenecks
    from joulebench.analysis.bottlenecks.text import bottlenecks_text

    models = find_bottlenecks(tasks, ModelSizes(sizes["weights"], sizes["kv_token"]))
    return [model.data() for model in models], [line for model in models for line in bottlenecks_text(model)]


def _throttling(tasks: Sequence[TaskRun], _: Sizes) -> DataAndLines:
    from joulebench.analysis.bottlenecks.text import throttling_text
    from joulebench.analysis.bottlenecks.throttling import throttling_of_tasks

    models = throttling_of_tasks(tasks)
    return [model.data() for model in models], [line for model in models for line in throttling_text(model)]


def _balance(tasks: Sequence[TaskRun], _: Sizes) -> DataAndLines:
    from joulebench.analysis.bottlenecks.balance import balance_of_tasks
    from joulebench.analysis.bottlenecks.text import balance_text

    models = balance_of_tasks(tasks)
    return [model.data() for model in models], [line for model in models for line in balance_text(model)]


def _kv_cache(tasks: Sequence[TaskRun], sizes: Sizes) -> DataAndLines:
    from joulebench.analysis.bottlenecks.kv_cache import kv_cache_of_tasks
    from joulebench.analysis.bottlenecks.text import kv_cache_text

    models = kv_cache_of_tasks(tasks, sizes["kv_token"])
    return [model.data() for model in models], [line for model in models for line in kv_cache_text(model)]


def _sizes(given: Sequence[str], flag: str) -> dict[str, float]:
    """Parses ``MODEL=BYTES``, and for weights also ``MODEL=FILE``, into bytes by model."""
    sizes = {}
    for text in given:
        model, _, value = text.rpartition("=")
        try:
            size = float(Path(value).stat().st_size) if flag == "--weights" and Path(value).is_file() else float(value)
        except ValueError:
            size = 0.0
        if not model or not 0 < size < 1e15:
            raise UserError(f"{flag}: {text!r} is not MODEL=BYTES" + (" or MODEL=FILE" if flag == "--weights" else ""))
        sizes[model] = size
    return sizes
