import os
import pytest
from openai import OpenAI
from joulebench import Run


@pytest.fixture(scope="session")
def run():
    with Run(run_id=os.environ["JOULEBENCH_RUN_ID"]) as run:
        yield run


@pytest.mark.parametrize("word", ["one", "nine"])
def test_the_model_says(word: str, run: Run, request: pytest.FixtureRequest) -> None:
    ask = [{"role": "user", "content": f"Say {word}."}]
    with run.task(request.node.nodeid) as task:
        with task.call() as call:
            reply = OpenAI().chat.completions.create(model=os.environ["MODEL"], messages=ask)
            call.record(reply)
        said = word in reply.choices[0].message.content
        task.succeed() if said else task.fail("not said")
    assert said
