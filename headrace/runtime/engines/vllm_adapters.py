"""vLLM's adapter calls, which the simulated engine answers too. Pure.

Source: vLLM 0.32.0 started with ``VLLM_ALLOW_RUNTIME_LORA_UPDATING=True`` and ``--enable-lora``.
"""

from __future__ import annotations

import msgspec
from typing_extensions import override

from headrace.runtime.engines.dialect import AdapterDialect, Call


class _Error(msgspec.Struct, frozen=True):
    message: str = ""


class _Refusal(msgspec.Struct, frozen=True):
    error: _Error = _Error()


class VllmAdapters(AdapterDialect):
    """``/v1/load_lora_adapter`` and its counterpart: 200 with a line of text, or an error in JSON.

    The KV of a prompt is keyed by the adapter's name and path, so a version that is loaded in place
    from a path of its own shares no KV with the one before.
    """

    @override
    def load(self, name: str, path: str, *, replaced: bool) -> tuple[Call, ...]:
        body = {"lora_name": name, "lora_path": path, "load_inplace": replaced}
        return (Call("/v1/load_lora_adapter", body),)

    @override
    def unload(self, name: str) -> Call:
        return Call("/v1/unload_lora_adapter", {"lora_name": name})

    @override
    def refusal(self, status: int, body: bytes) -> str | None:
        if status == 200:
            return None
        try:
            message = msgspec.json.decode(body, type=_Refusal).error.message
        except msgspec.DecodeError:
            message = ""
        return message or f"status {status}: {body[:200].decode('utf-8', 'replace')}"
