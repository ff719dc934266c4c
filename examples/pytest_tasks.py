"""Tests of a model, each measured as a task.

OPENAI_BASE_URL=http://127.0.0.1:8000/v1 OPENAI_API_KEY=none MODEL=qwen3:8b pytest --joulebench examples/pytest_tasks.py
"""

import os
import pytest
from openai import OpenAI


@pytest.mark.parametrize("word", ["one", "nine"])
def test_the_model_says(word: str) -> None:
    ask = [{"role": "user", "content": f"Say {word}."}]
    reply = OpenAI().chat.completions.create(model=os.environ["MODEL"], messages=ask)
    assert word in reply.choices[0].message.content
