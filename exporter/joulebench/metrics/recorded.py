"""Names under which prometheus/rules/model_servers.yml records metrics of model servers, as far as results read them.

They are no metrics of Joulebench: a server that Prometheus does not scrape, or that does not export them, has no such series.
"""

from __future__ import annotations

SERVER_KV_CACHE = "server:joulebench_server_kv_cache:ratio"
SERVER_RUNNING = "server:joulebench_server_running_requests:sum"
SERVER_WAITING = "server:joulebench_server_waiting_requests:sum"
