"""A range of tasks on our own runner, each in a process of its own, so that what hangs or dies costs one task."""
