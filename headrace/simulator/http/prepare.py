"""Checks a request as vLLM does and turns it into sequences to generate. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from xxhash import xxh3_64_intdigest

from headrace.simulator.http.adapters import Adapters
from headrace.simulator.http.errors import ApiError, bad, prompt_too_long, unknown_model
from headrace.simulator.http.generation import (
    Ending,
    Generation,
    Prompt,
    find_stop,
    fixed_ending,
    natural_length,
)
from headrace.simulator.http.text import (
    TOKEN_BYTES,
    VOCAB,
    Generated,
    TokenArray,
    chat_prompt,
    encode,
    utf8,
)
from headrace.simulator.http.tools import ToolCall, formatted, tool_call
from headrace.simulator.http.wire import (
    ChatRequest,
    CompletionRequest,
    Message,
    Sampling,
    Tool,
    is_absent,
    read_prompts,
)
from kvcache.hashing import BASE, BlockHasher, Scope

_MAX_LOGPROBS: Final = 20
_MAX_CHOICES: Final = 128
_DEFAULT_COMPLETION_TOKENS: Final = 16


@dataclass(frozen=True, slots=True)
class Site:
    """What requests are checked against: one engine's settings and adapters.

    Attributes:
        names: Names of the base model, the shown one first.
        context_tokens: Longest prompt plus output.
        mean_output_tokens: Mean length of an answer that nothing cuts short.
        seed: Mixed into all generated text.

    """

    names: tuple[str, ...]
    adapters: Adapters
    hasher: BlockHasher
    context_tokens: int
    mean_output_tokens: float
    seed: int = 0
    auto_tools: bool = True

    def scope(self, model: str | None, salt: str | None) -> tuple[str, Scope]:
        """Return the name to answer with and the scope of the request's blocks.

        Raises:
            ApiError: 404 for a name that is neither the base model's nor an adapter's.

        """
        if salt == "":
            raise bad("Parameter 'cache_salt' must be a non-empty string if provided.")
        if model is None or model in self.names:
            return model or self.names[0], (BASE if salt is None else Scope(cache_salt=salt))
        adapter = self.adapters.get(model)
        if adapter is None:
            aliases = [*self.names, *(loaded.name for loaded in self.adapters.loaded())]
            raise unknown_model(model, aliases)
        return model, Scope(adapter.name, adapter.path, salt)


@dataclass(frozen=True, slots=True)
class Job:
    """A checked request: the sequences to generate and how to answer.

    Attributes:
        generations: ``n`` per prompt, prompt by prompt.
        prompt_tokens: Of each prompt.
        echoes: The prompt's text before each choice, or empty strings.
        logprobs: Alternatives per token to report; None for no log probabilities.
        call: The tool call to answer with, or None.

    """

    chat: bool
    model: str
    sampling: Sampling
    generations: list[Generation]
    prompt_tokens: list[int]
    echoes: list[str] = field(default_factory=list)
    logprobs: int | None = None
    call: ToolCall | None = None

    @property
    def hand_over(self) -> bool:
        """Whether another engine will decode this request."""
        return bool((self.sampling.kv_transfer_params or {}).get("do_remote_decode"))

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with usage."""
        options = self.sampling.stream_options
        return bool(options and options.include_usage)

    @property
    def continuous_usage(self) -> bool:
        """Whether every chunk of a stream carries usage."""
        options = self.sampling.stream_options
        return self.include_usage and bool(options and options.continuous_usage_stats)


def chat_job(request: ChatRequest, site: Site) -> Job:
    """Check a chat request.

    Raises:
        ApiError: it must be refused.

    """
    model, scope = site.scope(request.model, request.cache_salt)
    if not request.messages:
        raise bad(
            "Cannot apply chat template to an empty conversation. Provide at least one message."
        )
    limit = request.max_completion_tokens
    limit = request.max_tokens if limit is None else limit
    _check_sampling(request, limit, site)
    logprobs = _chat_logprobs(request)
    call = tool_call(request, auto_allowed=site.auto_tools)
    ids = encode(chat_text(request.messages, request.tools, generate=_opens_turn(request)))
    fixed = call.arguments if call is not None else formatted(request.response_format)
    generations = _generate(request, _prompt(ids, scope, site), limit, site, fixed)
    return Job(True, model, request, generations, [len(ids)], [], logprobs=logprobs, call=call)


def completion_job(request: CompletionRequest, site: Site) -> Job:
    """Check a completion request.

    Raises:
        ApiError: it must be refused.

    """
    model, scope = site.scope(request.model, request.cache_salt)
    if is_absent(request.prompt):
        raise bad("Either prompt or prompt_embeds must be provided and non-empty.", "prompt")
    limit = _DEFAULT_COMPLETION_TOKENS if request.max_tokens is None else request.max_tokens
    _check_sampling(request, limit, site)
    if request.logprobs is not None and not 0 <= request.logprobs <= _MAX_LOGPROBS:
        raise _too_many_logprobs(request.logprobs)
    given = read_prompts(request.prompt, "prompt")
    if len(given) * (request.n or 1) > _MAX_CHOICES * _MAX_CHOICES:
        raise bad(f"at most {_MAX_CHOICES * _MAX_CHOICES} choices per request", "prompt")
    generations: list[Generation] = []
    lengths: list[int] = []
    echoes: list[str] = []
    for item in given:
        ids = token_ids(item)
        lengths.append(len(ids))
        generations += _generate(request, _prompt(ids, scope, site), limit, site, None)
        if request.echo:
            text = item if isinstance(item, str) else _shown(ids)
            echoes += [text] * (request.n or 1)
    return Job(False, model, request, generations, lengths, echoes, logprobs=request.logprobs)


def token_ids(prompt: str | list[int]) -> TokenArray:
    """Return the tokens of a prompt given as text or as token ids.

    Raises:
        ApiError: 400 for an id that is no token, or an empty prompt.

    """
    if isinstance(prompt, str):
        ids = encode(utf8(prompt))
    else:
        try:
            wide = np.array(prompt, dtype=np.int64)
        except OverflowError:
            raise bad(f"Token id {max(prompt, key=abs)} is out of vocabulary") from None
        outside = wide[(wide < 0) | (wide >= VOCAB)]
        if len(outside):
            raise bad(f"Token id {outside[0]} is out of vocabulary")
        ids = wide.astype(np.uint32)
    if not len(ids):
        raise bad("The decoder prompt cannot be empty", "prompt")
    return ids


def chat_text(messages: list[Message], tools: list[Tool] | None, *, generate: bool) -> bytes:
    """Return the prompt of a conversation.

    Raises:
        ApiError: 400 for content that is not text.

    """
    offered = b""
    if tools:
        offered = ",".join(tool.function.name for tool in tools).encode("utf-8", "replace")
    turns = [(message.role, _content(message)) for message in messages]
    return chat_prompt(turns, tools=offered, generate=generate)


def _content(message: Message) -> bytes:
    content = message.content
    if content is None:
        text = b""
    elif isinstance(content, str):
        text = utf8(content)
    else:
        for part in content:
            if part.text is None:
                raise bad(f"{part.type!r} is not text, and this is not a multimodal model")
        text = b"".join(utf8(part.text or "") for part in content)
    return text if is_absent(message.tool_calls) else text + bytes(message.tool_calls)


def _opens_turn(request: ChatRequest) -> bool:
    return bool(request.add_generation_prompt) and not request.continue_final_message


def _shown(ids: TokenArray) -> str:
    return ids.astype("<u4").tobytes().replace(b"\0", b"").decode("utf-8", "replace")


def _chat_logprobs(request: ChatRequest) -> int | None:
    top = request.top_logprobs
    if not request.logprobs:
        if top:
            raise bad("when using `top_logprobs`, `logprobs` must be set to true.", "top_logprobs")
        return None
    if top is not None and not 0 <= top <= _MAX_LOGPROBS:
        raise _too_many_logprobs(top)
    return top or 0


def _too_many_logprobs(asked: int) -> ApiError:
    if asked < 0:
        return bad("`logprobs` must be a positive value.", "logprobs")
    return bad(
        f"Requested sample logprobs of {asked}, which is greater than max allowed: {_MAX_LOGPROBS}",
        "logprobs",
    )


def _check_sampling(request: Sampling, limit: int | None, site: Site) -> None:
    """Refuse values out of range. Source: vLLM 0.32.0, ``SamplingParams._verify_args``."""
    n, temperature, top_p = request.n, request.temperature, request.top_p
    least = request.min_tokens or 0
    checks: tuple[tuple[str, bool, str], ...] = (
        ("n", n is None or n >= 1, f"n must be at least 1, got {n}."),
        ("n", n is None or n <= _MAX_CHOICES, f"n must be at most {_MAX_CHOICES}, got {n}."),
        (
            "temperature",
            temperature is None or 0.0 <= temperature <= 2.0,
            f"temperature must be in [0, 2], got {temperature}.",
        ),
        ("top_p", top_p is None or 0.0 < top_p <= 1.0, f"top_p must be in (0, 1], got {top_p}."),
        (
            "max_tokens",
            limit is None or limit >= 1,
            f"max_tokens must be at least 1, got {limit}.",
        ),
        ("min_tokens", least >= 0, f"min_tokens must be non-negative, got {least}."),
        (
            "min_tokens",
            limit is None or least <= limit,
            f"min_tokens must be less than or equal to max_tokens={limit}, got {least}.",
        ),
        (
            "max_tokens",
            limit is None or limit <= site.context_tokens,
            f"max_tokens={limit} cannot be greater than max_model_len={site.context_tokens}. "
            f"Please request fewer output tokens. (parameter=max_tokens, value={limit})",
        ),
        (
            "stream_options",
            request.stream_options is None or bool(request.stream),
            "Stream options can only be defined when `stream=True`.",
        ),
        ("stop", "" not in _stops(request), "stop cannot contain an empty string."),
    )
    for name, good, message in checks:
        if not good:
            raise bad(message, name)


def _stops(request: Sampling) -> list[str]:
    stop = request.stop
    if stop is None:
        return []
    return [stop] if isinstance(stop, str) else stop


def _prompt(ids: TokenArray, scope: Scope, site: Site) -> Prompt:
    """Hash a prompt that fits. More output than the context has room for is cut, not refused.

    Raises:
        ApiError: 400 when the context has no room for it and one token.

    Source: vLLM 0.32.0, ``get_max_tokens`` in ``entrypoints/serve/utils/api_utils.py``.
    """
    if len(ids) >= site.context_tokens:
        raise prompt_too_long(site.context_tokens, len(ids))
    return Prompt.of(ids, scope, site.hasher)


def _weights(scope: Scope) -> int:
    """Return what stands for the weights of an adapter: other files say other things."""
    return 0 if scope.lora_path is None else xxh3_64_intdigest(scope.lora_path.encode())


def _generate(
    request: Sampling, prompt: Prompt, limit: int | None, site: Site, fixed: bytes | None
) -> list[Generation]:
    """Return the choices of one prompt; ``fixed`` is the text where only one will do."""
    room = site.context_tokens - len(prompt.ids)
    limit = room if limit is None else min(limit, room)
    least = min(request.min_tokens or 0, limit)
    made: list[Generation] = []
    for choice in range(request.n or 1):
        if fixed is not None:
            generation = Generation(prompt, fixed, fixed_ending(fixed, limit), site.hasher)
        else:
            seed = (request.seed or 0) * 31 + site.seed + _weights(prompt.scope)
            said = Generated.after(prompt.ids, seed, choice)
            length, reason = limit, "length"
            if not request.ignore_eos:
                natural = max(natural_length(said.chance, site.mean_output_tokens), least)
                if natural <= limit:
                    length, reason = natural, "stop"
            text = said.text(length)
            stops = _stops(request)
            ending = find_stop(text, stops, least) if stops else None
            ending = ending or Ending(length, length * TOKEN_BYTES, reason)
            generation = Generation(prompt, text, ending, site.hasher)
        generation.max_tokens = limit
        made.append(generation)
    return made


def transferred_tokens(params: dict[str, Any] | None, prompt_tokens: int) -> int:
    """Return how many leading prompt tokens another engine has computed (``do_remote_prefill``).

    All but the last, unless ``remote_num_tokens`` says fewer; what makes no sense counts as none.
    """
    if not params or not params.get("do_remote_prefill"):
        return 0
    told = params.get("remote_num_tokens", prompt_tokens)
    if not isinstance(told, int) or told < 0:
        return 0
    return max(0, min(told, prompt_tokens - 1))
