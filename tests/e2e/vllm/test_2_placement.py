"""Shared prefixes and aborts, as the workers' own metrics show them."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import openai
import pytest

from headrace.runtime.metrics_text import EngineReport
from tests.e2e.vllm.conftest import Figures
from tests.e2e.vllm.stack import CONTEXT_TOKENS, Stack, eventually

pytestmark = pytest.mark.vllm

MODEL = "small"
GROUPS = 4
ROUNDS = 4
BLOCK_TOKENS = 32
IDS = count(1)


def system_prompt(group: int) -> str:
    return " ".join(f"Rule {number} of house {group}: open gate {number}." for number in range(40))


def ask(client: openai.OpenAI, group: int, question: str) -> tuple[str, int, int]:
    """Ask with the prompt of a group; return the request's id, prompt tokens and cached tokens."""
    request_id = f"group-{group}-{next(IDS)}"
    reply = client.chat.completions.create(
        model=MODEL,
        messages=[
            {"role": "system", "content": system_prompt(group)},
            {"role": "user", "content": question},
        ],
        max_tokens=4,
        extra_headers={"X-Request-Id": request_id},
        extra_body={"ignore_eos": True},
    )
    assert reply.usage is not None
    details = reply.usage.prompt_tokens_details
    cached = (details.cached_tokens or 0) if details is not None else 0
    return request_id, reply.usage.prompt_tokens, cached


def moved(before: dict[str, EngineReport], after: dict[str, EngineReport]) -> dict[str, int]:
    """Return how many prompt tokens each worker looked up in its prefix cache in between."""
    return {
        name: after[name].prefix_queries_tokens - before[name].prefix_queries_tokens
        for name in before
    }


def settled(stack: Stack, tokens: int, before: dict[str, EngineReport]) -> dict[str, EngineReport]:
    """Wait until the workers' counters hold ``tokens`` more prompt tokens; return them."""
    seen: dict[str, EngineReport] = {}

    def holds() -> bool:
        seen.update(stack.reports())
        return sum(moved(before, seen).values()) >= tokens

    eventually(holds, 10)
    return seen


def test_requests_that_share_a_prefix_meet_it_in_the_same_workers_cache(
    stack: Stack, client: openai.OpenAI, figures: Figures
) -> None:
    start = stack.reports()
    with ThreadPoolExecutor(GROUPS) as threads:
        first = list(threads.map(lambda group: ask(client, group, "First?"), range(GROUPS)))
        assert [cached for *_, cached in first] == [0] * GROUPS
        home = {group: stack.request(each[0])["endpoint"] for group, each in enumerate(first)}
        assert set(home.values()) == {"vllm-0", "vllm-1"}, "groups spread over the workers"
        before = settled(stack, sum(tokens for _, tokens, _ in first), start)

        for group in range(GROUPS):
            _, tokens, cached = ask(client, group, "Second?")
            after = settled(stack, tokens, before)
            assert moved(before, after) == {
                name: tokens if name == home[group] else 0 for name in after
            }, "one request, one worker"
            worker = home[group]
            hits = after[worker].prefix_hits_tokens - before[worker].prefix_hits_tokens
            assert hits == cached > 0, "the worker's counter agrees with what the client was told"
            before = after

        asked = [(group, f"Round {turn}?") for turn in range(ROUNDS) for group in range(GROUPS)]
        replies = list(threads.map(lambda each: (each[0], *ask(client, *each)), asked))
    end = settled(stack, sum(tokens for _, _, tokens, _ in replies), before)

    elsewhere = [
        request_id
        for group, request_id, _, _ in replies
        if stack.request(request_id)["endpoint"] != home[group]
    ]
    # All of a prompt but the question and the turn's end, in whole blocks.
    shareable = sum((tokens - 20) // BLOCK_TOKENS * BLOCK_TOKENS for _, _, tokens, _ in replies)
    hit = {name: end[name].prefix_hits_tokens - before[name].prefix_hits_tokens for name in end}
    cached_of = {
        name: sum(cached for group, _, _, cached in replies if home[group] == name) for name in end
    }
    figures["prefix.groups"] = GROUPS
    figures["prefix.requests"] = GROUPS * (ROUNDS + 2)
    figures["prefix.requests_elsewhere"] = len(elsewhere)
    figures["prefix.hit_tokens"] = sum(hit.values())
    figures["prefix.hit_ratio_of_shareable"] = sum(hit.values()) / shareable
    assert elsewhere == []
    assert all(cached > 0 for *_, cached in replies)
    assert hit == cached_of
    assert sum(hit.values()) >= 0.95 * shareable


def test_a_client_that_leaves_ends_its_request_in_the_engine(
    stack: Stack, client: openai.OpenAI, figures: Figures
) -> None:
    before, outcomes = stack.reports(), stack.outcomes()
    most = CONTEXT_TOKENS - 200
    stream = client.completions.create(
        model=MODEL,
        prompt="An endless tale",
        max_tokens=most,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    with stream:
        for _, _ in zip(range(3), stream, strict=False):
            pass
        eventually(lambda: sum(each.running or 0 for each in stack.reports().values()) == 1, 10)
    left_s = time.monotonic()
    eventually(lambda: all(each.running == 0 for each in stack.reports().values()), 10)
    figures["abort.idle_after_s"] = time.monotonic() - left_s
    after = stack.reports()
    generated = sum(after[name].output_tokens - before[name].output_tokens for name in after)
    figures["abort.generated_ratio"] = generated / most
    assert generated < most / 2
    for name, report in after.items():
        assert report.ended("length") == before[name].ended("length"), "it did not run to its end"
        assert report.kv_used_ratio == 0
    eventually(
        lambda: stack.outcomes().get("client_gone", 0) == outcomes.get("client_gone", 0) + 1, 10
    )
