"""What Prometheus scrapes: collectors that print what the sensors already know, and the HTTP server in front of them."""
