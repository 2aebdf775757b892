"""What a sidecar sees of SGLang, small and as its source has it; SGLang itself is not run here.

Source: ``sglang/srt/entrypoints/http_server.py``, its LoRA registry, and its production metrics, as
published in 2026. A name cannot be loaded twice; an unload waits for the requests that use it;
adapters are listed with their parent; requests name one as ``BASE:ADAPTER``.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from aiohttp import web

BASE = "small"


class FakeSglang:
    """An engine on loopback; use it as a context."""

    def __init__(self) -> None:
        self.adapters: dict[str, str] = {}
        self.running: dict[str, int] = {}
        self.prompt_tokens = 0
        self.output_tokens = 0
        self.url = ""
        self._quiet = asyncio.Condition()

    async def __aenter__(self) -> FakeSglang:
        app = web.Application()
        app.router.add_get("/health", self._health)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_post("/v1/completions", self._completions)
        app.router.add_post("/load_lora_adapter", self._load)
        app.router.add_post("/unload_lora_adapter", self._unload)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response()

    async def _models(self, _: web.Request) -> web.Response:
        cards = [{"id": BASE, "object": "model", "root": BASE, "max_model_len": 2_048}]
        cards += [
            {"id": name, "object": "model", "root": path, "parent": BASE, "max_model_len": None}
            for name, path in self.adapters.items()
        ]
        return web.json_response({"object": "list", "data": cards})

    async def _metrics(self, _: web.Request) -> web.Response:
        page = (
            "# HELP sglang:num_running_reqs The number of running requests.\n"
            f'sglang:num_running_reqs{{model_name="{BASE}"}} {sum(self.running.values())}.0\n'
            f'sglang:num_queue_reqs{{model_name="{BASE}"}} 0.0\n'
            f'sglang:token_usage{{model_name="{BASE}"}} 0.0\n'
            f'sglang:prompt_tokens_total{{model_name="{BASE}"}} {self.prompt_tokens}.0\n'
            f'sglang:generation_tokens_total{{model_name="{BASE}"}} {self.output_tokens}.0\n'
        )
        return web.Response(text=page)

    async def _completions(self, request: web.Request) -> web.Response:
        body = await request.json()
        base, _, adapter = body["model"].partition(":")
        if base != BASE or (adapter and adapter not in self.adapters):
            return web.json_response({"message": f"not loaded: {body['model']}"}, status=400)
        self.running[adapter] = self.running.get(adapter, 0) + 1
        try:
            await asyncio.sleep(0.002 * body["max_tokens"])
        finally:
            async with self._quiet:
                self.running[adapter] -= 1
                self._quiet.notify_all()
        self.prompt_tokens += len(body["prompt"])
        self.output_tokens += body["max_tokens"]
        text = f"{self.adapters.get(adapter, BASE)} says {body['prompt'][:2]}"
        return web.json_response({"choices": [{"index": 0, "text": text}]})

    async def _load(self, request: web.Request) -> web.Response:
        body = await request.json()
        name, path = body["lora_name"], body["lora_path"]
        if name in self.adapters:
            return self._told(f"LoRA adapter with name {name} is already loaded.")
        if not await asyncio.to_thread(Path(path, "adapter_config.json").is_file):
            return self._told(f"Can't find 'adapter_config.json' at '{path}'")
        self.adapters[name] = path
        return self._told(None)

    async def _unload(self, request: web.Request) -> web.Response:
        name = (await request.json())["lora_name"]
        if self.adapters.pop(name, None) is None:
            return self._told(f"LoRA adapter {name} is not loaded.")
        async with self._quiet:
            await self._quiet.wait_for(lambda: not self.running.get(name))
        return self._told(None)

    def _told(self, error: str | None) -> web.Response:
        answer = {
            "success": error is None,
            "error_message": error or "",
            "loaded_adapters": self.adapters,
        }
        return web.json_response(answer, status=200 if error is None else 400)
