from __future__ import annotations

import pytest

from headrace.runtime.engines.catalog import DIALECTS, EngineProgram
from headrace.runtime.engines.dialect import Call


def test_every_program_has_a_dialect() -> None:
    assert set(DIALECTS) == set(EngineProgram)


def test_vllm_loads_another_version_in_place() -> None:
    vllm = DIALECTS[EngineProgram.VLLM]
    for replaced in (False, True):
        body = {"lora_name": "ad", "lora_path": "/p", "load_inplace": replaced}
        assert vllm.load("ad", "/p", replaced=replaced) == (Call("/v1/load_lora_adapter", body),)
    assert vllm.unload("ad") == Call("/v1/unload_lora_adapter", {"lora_name": "ad"})


def test_sglang_unloads_the_version_before() -> None:
    sglang = DIALECTS[EngineProgram.SGLANG]
    load = Call("/load_lora_adapter", {"lora_name": "ad", "lora_path": "/p"})
    assert sglang.load("ad", "/p", replaced=False) == (load,)
    assert sglang.load("ad", "/p", replaced=True) == (sglang.unload("ad"), load)


@pytest.mark.parametrize(
    ("program", "status", "body", "why"),
    [
        ("vllm", 200, b"Success: LoRA adapter 'ad' added successfully.", None),
        ("vllm", 404, b'{"error":{"message":"No adapter found","code":404}}', "No adapter found"),
        ("vllm", 500, b"Internal Server Error", "status 500: Internal Server Error"),
        ("sglang", 200, b'{"success":true,"loaded_adapters":{"ad":"/p"}}', None),
        ("sglang", 400, b'{"success":false,"error_message":"too many"}', "too many"),
        ("sglang", 200, b'{"success":false}', "status 200"),
        ("sglang", 404, b'{"detail":"Not Found"}', "status 404"),
        ("sglang", 502, b"<html>", "status 502: <html>"),
    ],
)
def test_refusals_are_read(program: str, status: int, body: bytes, why: str | None) -> None:
    assert DIALECTS[EngineProgram(program)].refusal(status, body) == why
