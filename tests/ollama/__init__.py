"""A real Ollama on the CPU with a real small model: what it answers is the truth here, and nothing else is."""
