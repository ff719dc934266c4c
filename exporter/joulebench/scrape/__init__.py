"""What Prometheus scrapes: one collector a file, health series for each, and the HTTP server."""
