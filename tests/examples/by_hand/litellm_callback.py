import os
import litellm
from joulebench import Run

with Run(model=os.environ["MODEL"]) as run, run.task("count") as task:
    ask = [{"role": "user", "content": "Count to three."}]
    with task.call() as call:
        reply = litellm.completion(f"hosted_vllm/{run.model}", ask)
        for requested in call.record(reply):
            with call.tool(requested) as tool:
                tool.outcome("unchecked")
    task.succeed() if reply.choices[0].message.content else task.fail("no answer")
print(f"joulebench export --run-id {run.run_id}")
