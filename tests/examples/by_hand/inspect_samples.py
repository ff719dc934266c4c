import os
from inspect_ai import Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.event import ModelEvent
from inspect_ai.hooks import Hooks, SampleEnd, SampleEvent, SampleStart, hooks
from inspect_ai.scorer import includes
from joulebench import Run

samples = [Sample(id=word, input=f"Say {word}.", target=word) for word in ("one", "nine")]
task, model = Task(dataset=samples, scorer=includes(), name="words"), os.environ["MODEL"]


@hooks(name="energy", description="Measures each sample.")
class Energy(Hooks):
    tasks, seen = {}, set()

    async def on_sample_start(self, data: SampleStart) -> None:
        self.tasks[data.sample_id] = run.task(f"words/{data.summary.id}")
        self.tasks[data.sample_id].__enter__()

    async def on_sample_event(self, data: SampleEvent) -> None:
        event, task = data.event, self.tasks[data.sample_id]
        if isinstance(event, ModelEvent) and not event.pending and event.uuid not in self.seen:
            self.seen.add(event.uuid)
            times = event.timestamp.timestamp(), event.completed.timestamp()
            task.add_call(*times, response=event.call.response, tools=event.tools, error=event.error)

    async def on_sample_end(self, data: SampleEnd) -> None:
        task = self.tasks.pop(data.sample_id)
        (score,) = data.sample.scores.values()
        task.succeed() if score.value == "C" else task.fail(str(score.value))
        task.__exit__(None, None, None)


with Run(model=model, suite="inspect") as run:
    eval(task, model=f"openai-api/server/{model}", display="none", log_dir="inspect_logs")
print(f"joulebench export --run-id {run.run_id}")
