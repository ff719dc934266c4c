"""Joules per successful task by model, from the results.csv of one or several runs.

python examples/results_with_pandas.py runs/*/results.csv
"""

import sys

import pandas as pd

results = pd.concat([pd.read_csv(path) for path in sys.argv[1:]], ignore_index=True)
sure = results[results["quality"] == "ok"]
print(f"{len(sure)} of {len(results)} tasks have joules of quality ok")

by_model = sure.groupby("model_name").agg(
    tasks=("task_id", "count"),
    success=("success", "mean"),
    joules=("total_energy_joules", "sum"),
    successes=("success", "sum"),
    watts=("avg_power_w", "mean"),
)
by_model["joules_per_success"] = by_model["joules"] / by_model["successes"].where(by_model["successes"] > 0)
print(by_model.drop(columns="successes").round(2).to_string())
