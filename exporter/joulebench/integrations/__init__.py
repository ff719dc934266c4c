"""Recording the LLM calls of client libraries and harnesses that know nothing of Joulebench.

``instrument`` wraps the clients themselves; each other file is for one harness, and imports it where it is used.
"""
