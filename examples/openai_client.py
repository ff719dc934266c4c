"""The OpenAI client against any OpenAI-compatible server, streamed, with the confidence of the model's tool calls.

OPENAI_BASE_URL=http://127.0.0.1:8000/v1 OPENAI_API_KEY=none MODEL=qwen3:8b python examples/openai_client.py
"""

import os

from openai import OpenAI

from joulebench import Run

client, model = OpenAI(), os.environ["MODEL"]
tool = {"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
tools = [{"type": "function", "function": tool}]

with Run(model=model, server=str(client.base_url)) as run, run.task("weather") as task:
    run.declare_tools(["get_weather"])
    messages = [{"role": "user", "content": "What is the weather in Paris? Use the tool."}]
    with task.call() as call:
        chunks = client.chat.completions.create(
            model=model, messages=messages, tools=tools, stream=True, logprobs=True, stream_options={"include_usage": True}
        )
        for _ in call.stream(chunks, tools):
            pass
    for requested in call.requested:
        with call.tool(requested) as step:
            step.result("18 degrees, cloudy")
    task.succeed() if call.requested else task.fail("no tool call")

print(f"joulebench export --run-id {run.run_id}")
