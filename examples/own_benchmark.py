"""A benchmark of your own: three tasks of an agent that needs no model, measured like any other.

python examples/own_benchmark.py
"""

from joulebench import Run

TASKS = {"add": "2 + 3", "multiply": "6 * 7", "divide": "1 / 0"}


def answer(question: str) -> str:
    """What your agent does."""
    left, operator, right = question.split()
    return str({"+": int.__add__, "*": int.__mul__, "/": int.__truediv__}[operator](int(left), int(right)))


with Run(model="my-agent", suite="arithmetic", planned_tasks=len(TASKS)) as run:
    run.declare_tools(["calculator"])
    for name, question in TASKS.items():
        with run.task(name) as task:
            with task.call() as call:
                call.finish(prompt_tokens=len(question), completion_tokens=5)
            with task.tool("calculator", {"question": question}) as tool:
                try:
                    tool.result(answer(question))
                    task.succeed()
                except ZeroDivisionError as error:
                    tool.outcome("tool_error", str(error))
                    task.fail(f"no answer: {error}")

print(f"joulebench export --run-id {run.run_id}")
