#!/usr/bin/env bash
# Runs tasks FROM to TO of a suite on the model in MODEL: run_tasks_range.sh SUITE [FROM [TO]] [flags of 'joulebench range'].
# Start it again to go on where it ended. Ctrl-C and kill end what it started and keep what is done.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
joulebench=${JOULEBENCH:-$here/../.venv/bin/joulebench}
[[ -x $joulebench ]] || joulebench=joulebench

if [[ $# -lt 1 ]]; then
  echo "usage: MODEL=NAME $0 SUITE [FROM [TO]] [flags; see 'joulebench range --help']" >&2
  exit 2
fi
# No shell stays between the caller's signals and what handles them.
exec "$joulebench" range "$@"
