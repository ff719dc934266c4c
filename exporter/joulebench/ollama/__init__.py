"""What is known of an Ollama server: its models, their memory and context, and the changes between two polls."""
