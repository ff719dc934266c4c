#!/usr/bin/env bash
# Runs tasks FROM to TO of a suite: run_tasks_range.sh SUITE [FROM [TO [LOG_ROOT]]] [flags of 'joulebench range'].
# A suite of the MCPWorld client, whose checkout is MCPWORLD_DIR or the current directory, is run by the client's own script and
# measured live. Any other suite is run on the model in MODEL; start it again to go on where it ended. Ctrl-C and kill end what it
# started and keep what is done.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
joulebench=${JOULEBENCH:-$here/../.venv/bin/joulebench}
[[ -x $joulebench ]] || joulebench=joulebench

if [[ $# -lt 1 ]]; then
  echo "usage: MODEL=NAME $0 SUITE [FROM [TO [LOG_ROOT]]] [flags; see 'joulebench range --help']" >&2
  exit 2
fi
client=${MCPWORLD_DIR:-$PWD}
client_script=$client/scripts/run_tasks_range.sh
# No shell stays between the caller's signals and what handles them.
if [[ -d $client/PC-Canary/tests/tasks/$1 && -f $client_script && ! $client_script -ef ${BASH_SOURCE[0]} ]]; then
  exec "$joulebench" run --suite "$1" -- bash "$client_script" "$@"
fi
if [[ $# -ge 4 && $4 != -* ]]; then
  set -- "$1" "$2" "$3" --runs-dir "$4" "${@:5}"
fi
exec "$joulebench" range "$@"
