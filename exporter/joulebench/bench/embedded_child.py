"""The child process of embedded.py: the only ``import xllamacpp``. Prints its address, serves until standard input closes."""

from __future__ import annotations

import json
import os
import sys

import xllamacpp


def main() -> None:
    settings = json.loads(sys.argv[1])
    address_pipe = os.dup(1)
    # llama.cpp may print; the pipe is for the address alone.
    os.dup2(2, 1)
    params = xllamacpp.CommonParams()
    params.model.path = settings["model"]
    params.model_alias = {settings["alias"]}
    params.n_ctx = settings["context"]
    params.n_parallel = settings["parallel"]
    params.cpuparams.n_threads = settings["threads"]
    params.cpuparams_batch.n_threads = settings["threads"]
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    # Prompts of earlier tasks kept for reuse: by default they may take 8 GiB of a machine that has no more than that.
    params.cache_ram_mib = 512
    params.use_jinja = True
    if settings["template"]:
        params.chat_template = settings["template"]
    params.endpoint_metrics = True
    server = xllamacpp.Server(params)
    os.write(address_pipe, f"{server.listening_address}\n".encode())
    sys.stdin.buffer.read()
    # Requests in flight have nobody to answer to: no clean-up is waited for.
    os._exit(0)


if __name__ == "__main__":
    main()
