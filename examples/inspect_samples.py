"""An evaluation of Inspect: each sample is a task, its scorer gives the verdict. Importing the hook registers it.

SERVER_BASE_URL=http://127.0.0.1:8000/v1 SERVER_API_KEY=none MODEL=qwen3:8b python examples/inspect_samples.py
"""

import os
from inspect_ai import Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.scorer import includes
from joulebench import Run
from joulebench.integrations import inspect_ai  # noqa: F401

samples = [Sample(id=word, input=f"Say {word}.", target=word) for word in ("one", "nine")]
task, model = Task(dataset=samples, scorer=includes(), name="words"), os.environ["MODEL"]
with Run(model=model, suite="inspect") as run:
    eval(task, model=f"openai-api/server/{model}", display="none", log_dir="inspect_logs")
print(f"joulebench export --run-id {run.run_id}")
