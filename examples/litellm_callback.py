"""LiteLLM with the callback, which reports calls a moment after they returned: ``flush`` waits for it.

HOSTED_VLLM_API_BASE=http://127.0.0.1:8000/v1 MODEL=qwen3:8b python examples/litellm_callback.py
"""

import os
import litellm
from joulebench import Run
from joulebench.integrations.litellm import JoulebenchLogger

logger = JoulebenchLogger()
litellm.callbacks = [logger]
with Run(model=os.environ["MODEL"]) as run, run.task("count") as task:
    ask = [{"role": "user", "content": "Count to three."}]
    reply = litellm.completion(f"hosted_vllm/{run.model}", ask)
    task.succeed() if reply.choices[0].message.content else task.fail("no answer")
    logger.flush()
print(f"joulebench export --run-id {run.run_id}")
