import os
from langchain_openai import ChatOpenAI
from joulebench import Run

model = ChatOpenAI(model=os.environ["MODEL"], stream_usage=True)
with Run(model=os.environ["MODEL"]) as run, run.task("count") as task:
    words, usage = [], {}
    with task.call() as call:
        for part in model.stream("Count to three."):
            if part.content:
                call.first_token()
                words.append(part.content)
            usage = part.usage_metadata or usage
        call.finish(usage.get("input_tokens"), usage.get("output_tokens"))
    task.succeed() if words else task.fail("no answer")
print(f"joulebench export --run-id {run.run_id}")
