"""A benchmark whose calls are recorded by themselves: a run, a task and ``instrument()``, and no line at the calls.

OPENAI_BASE_URL=http://127.0.0.1:8000/v1 OPENAI_API_KEY=none MODEL=qwen3:8b python examples/instrumented.py
"""

import os
from openai import OpenAI
import joulebench

joulebench.instrument()
client, model = OpenAI(), os.environ["MODEL"]
with joulebench.Run(model=model, server=str(client.base_url)) as run:
    for number in (3, 5):
        with run.task(f"count to {number}") as task:
            ask = [{"role": "user", "content": f"Count to {number}."}]
            reply = client.chat.completions.create(model=model, messages=ask)
            task.succeed() if reply.choices[0].message.content else task.fail("no answer")
print(f"joulebench export --run-id {run.run_id}")
