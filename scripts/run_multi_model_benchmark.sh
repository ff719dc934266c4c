#!/usr/bin/env bash
# Runs a whole suite on each model of MODELS or models.cfg: run_multi_model_benchmark.sh SUITE TAG [FROM [TO]] [flags].
# Each model has a run of its own, TAG-MODEL, with TAG as infrastructure tag; it is loaded before and unloaded after. Start it
# again to go on where it ended.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
joulebench=${JOULEBENCH:-$here/../.venv/bin/joulebench}
[[ -x $joulebench ]] || joulebench=joulebench

if [[ $# -lt 2 ]]; then
  echo "usage: MODELS='NAME NAME ...' $0 SUITE TAG [FROM [TO]] [flags; see 'joulebench range --help']" >&2
  exit 2
fi
suite=$1 tag=$2
shift 2
models=()
if [[ -z ${MODELS:-} && -f $here/models.cfg ]]; then
  models=(--models-file "$here/models.cfg")
fi
export INFRASTRUCTURE_TAG=${INFRASTRUCTURE_TAG:-$tag}
exec "$joulebench" range "$suite" "$@" --tag "$tag" "${models[@]}"
