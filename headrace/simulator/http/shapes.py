"""The JSON of answers and chunks, field by field as vLLM 0.32 has it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from headrace.simulator.http.generation import Generation
from headrace.simulator.http.logprobs import chat_entry, completion_logprobs
from headrace.simulator.http.prepare import Job
from headrace.simulator.http.text import TOKEN_BYTES


@dataclass(frozen=True, slots=True)
class Envelope:
    """What all chunks of one answer share; ``created`` is in Unix seconds."""

    answer_id: str
    created: int
    model: str
    chat: bool

    def body(self, choices: list[dict[str, Any]], *, whole: bool) -> dict[str, Any]:
        """Return an answer, or a chunk of one, around ``choices``."""
        kind = "text_completion"
        if self.chat:
            kind = "chat.completion" if whole else "chat.completion.chunk"
        return {
            "id": self.answer_id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }


def usage(job: Job, output_tokens: int, cached: list[int]) -> dict[str, Any]:
    """Return the token counts; prompts count once, however many choices they have.

    Args:
        job: The request.
        output_tokens: Of all choices.
        cached: Prompt tokens found cached, per choice.

    """
    per_prompt = len(job.generations) // len(job.prompt_tokens)
    prompt_tokens = sum(job.prompt_tokens)
    return {
        "prompt_tokens": prompt_tokens,
        "total_tokens": prompt_tokens + output_tokens,
        "completion_tokens": output_tokens,
        "prompt_tokens_details": {"cached_tokens": sum(cached[::per_prompt])},
    }


def handed_over(job: Job) -> dict[str, Any]:
    """Return what a decode engine needs of a prefill that is done."""
    tokens = job.prompt_tokens[0]
    return {
        "do_remote_prefill": True,
        "do_remote_decode": False,
        "remote_num_tokens": tokens,
        "remote_prefill_cached_tokens": 0,
    }


def finish_reason(job: Job, generation: Generation) -> str:
    """Return why a choice ended; a required tool call says so, a named one does not.

    Source: vLLM 0.32.0, ``serving_chat``: ``tool_calls`` only for automatic and required calls.
    """
    reason = generation.ending.finish_reason
    if job.call is not None and job.call.required and reason == "stop":
        return "tool_calls"
    return reason


def text_chunk(job: Job, index: int, text: str) -> dict[str, Any]:
    """Return a chunk's choice that carries text and nothing else."""
    if job.chat:
        return {
            "index": index,
            "delta": {"content": text},
            "logprobs": None,
            "finish_reason": None,
            "token_ids": None,
        }
    return {
        "index": index,
        "text": text,
        "logprobs": None,
        "finish_reason": None,
        "stop_reason": None,
        "token_ids": None,
    }


def role_chunk(job: Job, index: int) -> dict[str, Any]:
    """Return the choice that opens a chat stream, with the head of a tool call if there is one."""
    delta: dict[str, Any] = {"role": "assistant", "content": ""}
    if job.call is not None:
        function = {"name": job.call.name, "arguments": ""}
        call = {"index": 0, "id": _call_id(index), "type": "function", "function": function}
        delta = {"role": "assistant", "content": None, "tool_calls": [call]}
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}


def chunk(
    job: Job, index: int, generation: Generation, at: int, reason: str | None
) -> dict[str, Any]:
    """Return the choice of the chunk for the token whose text starts at byte ``at``."""
    ending = generation.ending
    token = generation.text[at : at + TOKEN_BYTES]
    shown = generation.text[at : min(at + TOKEN_BYTES, ending.text_bytes)].decode("ascii")
    choice = text_chunk(job, index, shown)
    choice["finish_reason"] = reason
    if reason is not None:
        choice["stop_reason"] = ending.stop_reason
    if job.call is not None:
        choice["delta"] = {"tool_calls": [{"index": 0, "function": {"arguments": shown}}]}
    position = at // TOKEN_BYTES
    if job.logprobs is not None:
        if job.chat:
            choice["logprobs"] = {"content": [chat_entry(token, position, job.logprobs)]}
        else:
            offset = len(job.echoes[index]) + at if job.echoes else at
            choice["logprobs"] = completion_logprobs([token], position, job.logprobs, offset)
    if job.sampling.return_token_ids:
        choice["token_ids"] = _output_ids(generation, position, position + 1)
    return choice


def whole_choice(job: Job, index: int, generation: Generation) -> dict[str, Any]:
    """Return a choice of an answer that is not streamed."""
    ending = generation.ending
    text = generation.text[: ending.text_bytes].decode("ascii")
    tokens = [
        generation.text[at : at + TOKEN_BYTES]
        for at in range(0, ending.output_tokens * TOKEN_BYTES, TOKEN_BYTES)
    ]
    choice: dict[str, Any] = {
        "index": index,
        "logprobs": None,
        "finish_reason": finish_reason(job, generation),
        "stop_reason": ending.stop_reason,
        "token_ids": None,
    }
    if job.sampling.return_token_ids:
        choice["token_ids"] = _output_ids(generation, 0, ending.output_tokens)
    if job.chat:
        choice["message"] = _message(job, index, text)
        if job.logprobs is not None:
            entries = [chat_entry(token, place, job.logprobs) for place, token in enumerate(tokens)]
            choice["logprobs"] = {"content": entries}
        return choice
    echo = job.echoes[index] if job.echoes else ""
    choice["text"] = echo + text
    if job.logprobs is not None:
        choice["logprobs"] = completion_logprobs(tokens, 0, job.logprobs, len(echo))
    if job.sampling.return_token_ids:
        choice["prompt_token_ids"] = generation.prompt.ids.tolist()
    return choice


def _message(job: Job, index: int, text: str) -> dict[str, Any]:
    message: dict[str, Any] = {
        "role": "assistant",
        "content": text,
        "refusal": None,
        "tool_calls": [],
    }
    if job.call is not None:
        function = {"name": job.call.name, "arguments": text}
        message["content"] = None
        message["tool_calls"] = [{"id": _call_id(index), "type": "function", "function": function}]
    return message


def _call_id(index: int) -> str:
    return f"chatcmpl-tool-{index:024x}"


def _output_ids(generation: Generation, first: int, last: int) -> list[int]:
    prompt_tokens = len(generation.prompt.ids)
    ids: list[int] = generation.token_ids(prompt_tokens + first, prompt_tokens + last).tolist()
    return ids
