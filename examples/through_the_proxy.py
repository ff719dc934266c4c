"""A client that knows nothing of Joulebench: its base URL leads through the metering proxy and names a run and a task.

joulebench proxy --upstream http://127.0.0.1:11434 &
MODEL=qwen3:8b python examples/through_the_proxy.py
"""

import os

from openai import OpenAI

proxy = os.environ.get("PROXY_URL", "http://127.0.0.1:18349")

for task in ("first", "second"):
    client = OpenAI(base_url=f"{proxy}/run/proxied/task/{task}/v1", api_key="none")
    response = client.chat.completions.create(
        model=os.environ["MODEL"], messages=[{"role": "user", "content": f"Count to three, {task} time."}]
    )
    print(task, response.usage.completion_tokens)
