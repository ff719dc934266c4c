"""The Ollama client: one response recorded, with the prefill and decode times that Ollama measures itself.

MODEL=qwen3:8b python examples/ollama_client.py
"""

import os

import ollama

from joulebench import Run

model = os.environ["MODEL"]
server = os.environ.get("OLLAMA_HOST", "http://127.0.0.1:11434")

with Run(model=model, server=server) as run, run.task("haiku") as task:
    with task.call() as call:
        response = ollama.chat(model=model, messages=[{"role": "user", "content": "Write a haiku about a GPU."}])
        call.record(response)
    task.succeed() if response["message"]["content"] else task.fail("an empty answer")

print(f"joulebench export --run-id {run.run_id}")
