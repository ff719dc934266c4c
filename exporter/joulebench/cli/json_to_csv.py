"""``joulebench json-to-csv``: a table of all result files below a directory."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from joulebench.errors import UserError


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-i", "--input-dir", type=Path, default=Path(), metavar="DIR", help="where result_*.json lie (default: .)"
    )
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("benchmark_results.csv"), metavar="FILE", help="default: %(default)s"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="say nothing but what went wrong")


def run(args: argparse.Namespace) -> int:
    """0 where every file became a row, 1 where some could not."""
    from joulebench.mcpworld import benchmark_csv, cells
    from joulebench.results.files import write_whole

    if not args.input_dir.is_dir():
        raise UserError(f"--input-dir: {args.input_dir} is no directory; give the one with the result_*.json files")
    found = benchmark_csv.convert(args.input_dir)
    for path, why in found.left_out:
        print(f"left out: {path} {why}", file=sys.stderr)  # noqa: T201
    if not found.rows:
        raise UserError(f"--input-dir: no result_*.json below {args.input_dir}; give the directory in which the client logs")
    write_whole(args.output, cells.table(benchmark_csv.COLUMNS, found.rows))
    if not args.quiet:
        print(f"{args.output}: {len(found.rows)} rows, {len(benchmark_csv.COLUMNS)} columns")  # noqa: T201
    return 1 if found.left_out else 0
