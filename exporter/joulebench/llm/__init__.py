"""LLM servers: one vocabulary (chat.py), one file per protocol."""
