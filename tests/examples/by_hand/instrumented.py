import os
from openai import OpenAI
from joulebench import Run

client, model = OpenAI(), os.environ["MODEL"]
with Run(model=model, server=str(client.base_url)) as run:
    for number in (3, 5):
        with run.task(f"count to {number}") as task:
            ask = [{"role": "user", "content": f"Count to {number}."}]
            with task.call() as call:
                reply = client.chat.completions.create(model=model, messages=ask)
                for requested in call.record(reply):
                    with call.tool(requested) as tool:
                        tool.outcome("unchecked")
            task.succeed() if reply.choices[0].message.content else task.fail("no answer")
print(f"joulebench export --run-id {run.run_id}")
