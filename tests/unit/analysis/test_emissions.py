"""Carbon and water in comparisons and reports: sums and ratios of known amounts, with source and date of the factor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from joulebench import cli
from joulebench.analysis.report.content import build_content
from joulebench.analysis.report.formats import report_csv, report_markdown
from joulebench.analysis.runs import load_run
from tests.fakes.scripted_run import Scripted, write

GRAMS_PER_JOULE = 360.0 / 3.6e6


def carbon(joules: float | None, factor: float = 360.0, date: str | None = "2026-10-01", query: str | None = None) -> Any:
    amount = None if joules is None else joules * factor / 3.6e6
    return {
        "emissions": {
            "carbon": {
                "amount": amount,
                "low": None if amount is None else 0.9 * amount,
                "high": None if amount is None else 1.1 * amount,
                "unit": "grams",
                "factor": factor,
                "factor_low": factor,
                "factor_high": factor,
                "of": "gpu",
                "joules": joules,
                "source": "the grid",
                "date": date,
                "query": query,
                "quality": "missing" if amount is None else "ok",
                "reasons": ["no_factor"] if amount is None else [],
            }
        }
    }


def tasks(model: str, joules: float, **changes: Any) -> list[Scripted]:
    return [
        Scripted(f"t{i}", i != 0, joules + i, model=model, extra=carbon(joules + i if i != 1 else None, **changes))
        for i in range(4)
    ]


def test_the_report_has_amounts_with_factor_source_and_date(tmp_path: Path) -> None:
    content = build_content([load_run(write(tmp_path / "run", tasks("a", 1e6)))], None, 0.5, (), "now")
    (row,) = content["emissions"]
    # Tasks 0, 2 and 3 have an amount, and 2 and 3 succeeded.
    amount = (3e6 + 5) * GRAMS_PER_JOULE
    assert row["amount"] == pytest.approx(amount)
    assert [row["amount_low"], row["amount_high"]] == pytest.approx([0.9 * amount, 1.1 * amount])
    assert row["per_success"]["value"] == pytest.approx(amount / 2)
    assert (row["known"], row["attempts"], row["factor"]) == (3, 4, pytest.approx(360.0))
    assert row["reasons"] == {"no_factor": 1}
    text = report_markdown(content)
    assert "## Carbon and water" in text
    assert "| a | carbon, grams | gpu | 3 / 4 | 300 | 270 to 330 |" in text
    assert "| 360 | the grid | 2026-10-01 |" in text
    assert "emission,a,carbon,sources,the grid,," in report_csv(content)


def test_a_run_without_factors_has_no_word_of_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path / "run", [Scripted("t", model="a"), Scripted("t", model="b")])
    content = build_content([load_run(folder)], None, 0.5, (), "now")
    assert content["emissions"] == []
    assert "Carbon" not in report_markdown(content)
    cli.main(["compare", str(folder)])
    assert "emissions" not in capsys.readouterr().out


def test_compare_shows_grams_per_success_and_factors_that_differ(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    series = tasks("b", 2e6, factor=720.0, date=None, query='grid{zone="DE"}')
    folder = write(tmp_path / "run", [*tasks("a", 1e6), *series])
    assert cli.main(["compare", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    (first,) = (line for line in lines if line.startswith("  a: carbon"))
    assert first.startswith("  a: carbon 150 grams")
    assert first.endswith("300 grams in 3 of 4 attempts; of gpu, 360 grams/kWh, the grid (2026-10-01)")
    (second,) = (line for line in lines if line.startswith("  b: carbon"))
    assert second.endswith('of gpu, 720 grams/kWh, the grid (series grid{zone="DE"})')
    assert lines[-1].startswith("  note: carbon: the models have different factors")
    assert cli.main(["compare", str(folder), "--format", "json"]) == 0
    values = json.loads(capsys.readouterr().out)["emissions"]
    assert [(row["arm"], row["kind"], row["unit"]) for row in values] == [("a", "carbon", "grams"), ("b", "carbon", "grams")]
