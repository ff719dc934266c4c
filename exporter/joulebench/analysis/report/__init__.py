"""The report of finished runs: the same numbers as a page, JSON, Markdown and CSV."""
