"""A small LLM agent benchmark with graded tasks, measured through the push door like anybody's."""
