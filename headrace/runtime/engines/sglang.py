"""SGLang's adapter calls. Pure.

Source: SGLang's ``sglang/srt/entrypoints/http_server.py`` and its LoRA registry, as published in
2026; it must be started with ``--enable-lora``. Read, not run: SGLang has no build for machines
without a GPU (docs/operate/runtime.md).
"""

from __future__ import annotations

import msgspec
from typing_extensions import override

from headrace.runtime.engines.dialect import AdapterDialect, Call


class _Answer(msgspec.Struct, frozen=True):
    success: bool = False
    error_message: str | None = None


class SglangAdapters(AdapterDialect):
    """``/load_lora_adapter`` and its counterpart: JSON with ``success``, 400 when it is false.

    A name that is loaded cannot be loaded again: the version before is unloaded first, for which
    the engine waits until its last request has ended.
    """

    @override
    def load(self, name: str, path: str, *, replaced: bool) -> tuple[Call, ...]:
        call = Call("/load_lora_adapter", {"lora_name": name, "lora_path": path})
        return (self.unload(name), call) if replaced else (call,)

    @override
    def unload(self, name: str) -> Call:
        return Call("/unload_lora_adapter", {"lora_name": name})

    @override
    def refusal(self, status: int, body: bytes) -> str | None:
        try:
            answer = msgspec.json.decode(body, type=_Answer)
        except msgspec.DecodeError:
            return f"status {status}: {body[:200].decode('utf-8', 'replace')}"
        if status == 200 and answer.success:
            return None
        return answer.error_message or f"status {status}"
