"""A model of LangChain with the callback handler.

OPENAI_BASE_URL=http://127.0.0.1:8000/v1 OPENAI_API_KEY=none MODEL=qwen3:8b python examples/langchain_handler.py
"""

import os
from langchain_openai import ChatOpenAI
from joulebench import Run
from joulebench.integrations.langchain import JoulebenchHandler

model = ChatOpenAI(model=os.environ["MODEL"], callbacks=[JoulebenchHandler()], stream_usage=True)
with Run(model=os.environ["MODEL"]) as run, run.task("count") as task:
    words = [part.content for part in model.stream("Count to three.")]
    task.succeed() if words else task.fail("no answer")
print(f"joulebench export --run-id {run.run_id}")
