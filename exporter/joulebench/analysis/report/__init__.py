"""The report of finished runs: one content, told as a page, JSON, Markdown or CSV."""
