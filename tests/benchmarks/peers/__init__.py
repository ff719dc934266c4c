"""Other tools, each in its own process and in an environment of its own; nothing here imports Joulebench."""
