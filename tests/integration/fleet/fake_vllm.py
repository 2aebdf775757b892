"""Stands in for a vLLM process: takes its command line, answers what a prober asks, misbehaves.

Misbehaviour comes from FAKE, a comma-separated list: exit, mute, no-generate, no-term, grandchild.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from typing_extensions import override

FAKE = os.environ.get("FAKE", "").split(",")
METRICS = (
    'vllm:num_requests_running{engine="0"} 0.0\nvllm:num_requests_waiting{engine="0"} 0.0\n'
    'vllm:kv_cache_usage_perc{engine="0"} 0.25\n'
    'vllm:cache_config_info{block_size="32",num_gpu_blocks="100"} 1.0\n'
)


def argument(name: str) -> str:
    return sys.argv[sys.argv.index(name) + 1]


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        model = {"id": argument("--served-model-name"), "parent": None, "max_model_len": 4096}
        answers = {
            "/health": "",
            "/v1/models": json.dumps({"object": "list", "data": [model]}),
            "/metrics": METRICS,
        }
        self.answer(200 if self.path in answers else 404, answers.get(self.path, ""))

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"] or 0))
        if self.path == "/crash":
            os._exit(9)
        assert json.loads(body)["max_tokens"] == 1
        self.answer(500 if "no-generate" in FAKE else 200, "{}")

    def answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    @override
    def log_message(self, format: str, *args: object) -> None:
        pass


def main() -> None:
    say("fake engine says hello")
    if "exit" in FAKE:
        sys.exit("fake engine: unrecognized arguments")
    if "no-term" in FAKE:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "grandchild" in FAKE:
        child = subprocess.Popen(["sleep", "300"])
        say(f"grandchild {child.pid}")
    if "mute" in FAKE:
        signal.pause()
    ThreadingHTTPServer(("127.0.0.1", int(argument("--port"))), Handler).serve_forever()


if __name__ == "__main__":
    main()
