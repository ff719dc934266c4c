"""``make test-fresh``: what a new user does, on a machine that has never seen Joulebench. See ``tests/README.md``."""
