from __future__ import annotations

import orjson

from headrace.simulator.trace import TraceRequest
from headrace.twin.prompts import BYTES_PER_TOKEN, PromptMaker


def asked(prompt_tokens: int, *hash_ids: int) -> TraceRequest:
    return TraceRequest(
        arrival_s=0.0,
        prompt_tokens=prompt_tokens,
        output_tokens=1,
        hash_ids=hash_ids,
        hash_block_tokens=512,
    )


def test_a_prompt_has_four_bytes_per_token() -> None:
    for tokens in (1, 511, 512, 513, 1300):
        text = PromptMaker().text(asked(tokens, 1, 2, 3), 0)
        assert len(text) == tokens * BYTES_PER_TOKEN


def test_equal_ids_make_equal_prefixes_and_other_ids_do_not() -> None:
    maker = PromptMaker()
    one, other = maker.text(asked(1024, 7, 8), 0), maker.text(asked(1024, 7, 9), 1)
    assert one[:2048] == other[:2048]
    assert one[2048:2112] != other[2048:2112]


def test_shared_text_does_not_depend_on_seed_or_place() -> None:
    request = asked(1000, 7, 8)
    assert PromptMaker(1).text(request, 0) == PromptMaker(2).text(request, 5)


def test_what_no_id_covers_is_unique_to_the_request_and_the_seed() -> None:
    request = asked(600, 7)
    texts = {PromptMaker(seed).text(request, index) for seed in (1, 2) for index in (0, 1)}
    assert len(texts) == 4
    assert len({text[:2048] for text in texts}) == 1


def test_the_text_needs_no_escaping_in_json() -> None:
    text = PromptMaker().text(asked(4096, *range(8)), 0)
    assert orjson.loads(b'"%b"' % text).encode() == text


def test_text_is_the_same_on_every_machine_and_release() -> None:
    assert PromptMaker().text(asked(6, 0), 0) == FIRST_WORDS


FIRST_WORDS = b" gym pig ban nut out age"
