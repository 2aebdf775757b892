"""A model's tokenizer and chat template, read from its files. Reads files; else pure.

Needs tokenizers and jinja2 (extra ``tokenizers``).

Source, throughout: transformers 5.19, ``tokenization_utils_tokenizers.py``, for what a tokenizer's
files mean together; vLLM 0.32.0, ``tokenizers/registry.py``, for the models read otherwise.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import jinja2
import msgspec
import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer

from gateway.conversation import Conversation
from gateway.cutting import Cutter
from gateway.readers import UnusableTokenizerError
from gateway.rendering import SPECIAL_NAMES, ChatTemplate, Strftime

TokenArray = NDArray[np.uint32]

OWN_RENDERERS: Final = frozenset(
    {
        *("GptOssForCausalLM", "MoonshotKimiaForCausalLM", "KimiK3ForConditionalGeneration"),
        *("DeepseekV32ForCausalLM", "DeepseekV4ForCausalLM", "DeepseekV41ForCausalLM"),
        *("DeepseekV4ForConditionalGeneration", "InklingForCausalLM"),
        "InklingForConditionalGeneration",
    }
)
"""Architectures whose conversations vLLM renders by code of its own, not by a chat template."""

MISTRAL_FILES: Final = ("tekken.json", "tokenizer.model.v*")
"""vLLM prefers Mistral's own tokenizer where one of these is there."""


class ModelTokenizer:
    """One model's tokenizer. Any number of threads may use it.

    Attributes:
        prefix: Special tokens put before a text that asks for them.
        suffix: Likewise behind it.

    """

    def __init__(
        self, tokenizer: Tokenizer, spec: Mapping[str, Any], templates: Mapping[str, ChatTemplate]
    ) -> None:
        self._tokenizer = tokenizer
        self._templates = templates
        self.prefix, self.suffix = _wrapping(self)
        sources = [template.source for template in templates.values()]
        self._cutter = Cutter(
            tokenizer, spec, sources, lambda texts: self.encode_ids(texts, special=False)
        )

    def chat_text(self, conversation: Conversation) -> str | None:
        """Return a conversation's text, or None where there is no template or it refuses."""
        name = "tool_use" if conversation.tools is not None else "default"
        template = self._templates.get(name) or self._templates.get("default")
        return None if template is None else template.render(conversation)

    def pieces(self, text: str) -> list[str]:
        """Cut a text where tokenising the parts gives the tokens of the whole."""
        return self._cutter.pieces(text)

    def encode(self, texts: Sequence[str]) -> list[TokenArray]:
        """Return the tokens of each text, no special ones added.

        Raises:
            UnusableTokenizerError: if it cannot encode them: a vocabulary with holes, say.

        """
        return [np.array(ids, dtype=np.uint32) for ids in self.encode_ids(texts, special=False)]

    def encode_ids(self, texts: Sequence[str], *, special: bool) -> list[list[int]]:
        """Return the tokens of each text. Only the batch call lets other threads run meanwhile."""
        try:
            found = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=special)
        except Exception as error:  # noqa: BLE001 -- the library raises Exception itself
            raise UnusableTokenizerError(str(error)) from None
        return [encoding.ids for encoding in found]


def find_folder(root: str) -> Path:
    """Return the folder of a model's files: ``root`` itself, or where the hub's cache has it.

    Nothing is downloaded.

    Raises:
        UnusableTokenizerError: if it is neither.

    """
    folder = Path(root)
    if folder.is_dir():
        return folder
    hub: Any = importlib.import_module("huggingface_hub")  # slow to import, and rarely needed
    try:
        cached = hub.try_to_load_from_cache(root, "tokenizer.json")
    except ValueError:
        cached = None
    if not isinstance(cached, str):
        raise UnusableTokenizerError("it is no folder, and no model in the hub's cache")
    return Path(cached).parent


def load_tokenizer(folder: Path, strftime: Strftime) -> ModelTokenizer:
    """Read a model's folder.

    Args:
        folder: Has ``tokenizer.json``, and what goes with it.
        strftime: See ``ChatTemplate``.

    Raises:
        UnusableTokenizerError: says why.

    """
    if any(any(folder.glob(pattern)) for pattern in MISTRAL_FILES):
        raise UnusableTokenizerError("its engine would use Mistral's own tokenizer")
    config = _read(folder / "tokenizer_config.json")
    spec = _read_spec(folder / "tokenizer.json")
    if config.get("split_special_tokens") or spec["model"]["dropout"]:
        raise UnusableTokenizerError("it splits special tokens, or drops merges by chance")
    try:
        tokenizer: Tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # noqa: BLE001 -- the library raises Exception itself
        raise UnusableTokenizerError(str(error)) from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    special = {**_read(folder / "special_tokens_map.json"), **config}
    names = _special_tokens(special)
    _add_special(tokenizer, special, config)
    return ModelTokenizer(tokenizer, spec, _templates(folder, config, names, strftime))


class _Model(msgspec.Struct):
    type: str | None = None
    dropout: float | None = None


class _Spec(msgspec.Struct):
    normalizer: dict[str, Any] | None = None
    pre_tokenizer: dict[str, Any] | None = None
    model: _Model = msgspec.field(default_factory=_Model)


def _read_spec(path: Path) -> dict[str, Any]:
    """Return what ``tokenizer.json`` says of how it works, without its vocabulary.

    That may be 10 MB, which ``json`` would take a third of a second for, and let nobody else run.
    """
    try:
        spec = msgspec.json.decode(path.read_bytes(), type=_Spec)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise UnusableTokenizerError(f"{path}: {error}") from None
    made: dict[str, Any] = msgspec.to_builtins(spec)
    return made


def _read(path: Path) -> dict[str, Any]:
    """Return a JSON file's object; an empty one where there is no file."""
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UnusableTokenizerError(f"{path}: {error}") from None
    if not isinstance(value, dict):
        raise UnusableTokenizerError(f"{path}: not an object")
    return value


def _content(token: object) -> str | None:
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None


def _special_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    found = {name: _content(config.get(name)) for name in SPECIAL_NAMES}
    return {name: content for name, content in found.items() if content is not None}


def _add_special(
    tokenizer: Tokenizer, special: Mapping[str, Any], config: Mapping[str, Any]
) -> None:
    """Add the special tokens that only the configuration knows of.

    Raises:
        UnusableTokenizerError: if it describes other tokens, or the same otherwise.

    """
    known = {token.content: token for token in tokenizer.get_added_tokens_decoder().values()}
    for described in (config.get("added_tokens_decoder") or {}).values():
        token = known.get(described.get("content"))
        flags = ("lstrip", "rstrip", "normalized", "single_word", "special")
        if token is None or any(
            flag in described and described[flag] != getattr(token, flag) for flag in flags
        ):
            raise UnusableTokenizerError(f"tokenizer.json lacks {described.get('content')!r}")
    extra = config.get("extra_special_tokens") or config.get("additional_special_tokens") or []
    values: Iterable[Any] = extra.values() if isinstance(extra, dict) else extra
    for value in (*(special.get(name) for name in SPECIAL_NAMES), *values):
        content = _content(value)
        if content is None or content in known:
            continue
        if isinstance(value, dict):
            raise UnusableTokenizerError(f"tokenizer.json lacks {content!r}")
        tokenizer.add_special_tokens([AddedToken(content, special=True, normalized=False)])
        known[content] = AddedToken(content, special=True)


def _wrapping(tokenizer: ModelTokenizer) -> tuple[list[int], list[int]]:
    """Find out which special tokens the tokenizer puts around a text.

    Raises:
        UnusableTokenizerError: if it does more than that.

    """
    (plain,) = tokenizer.encode_ids(["a"], special=False)
    (wrapped,) = tokenizer.encode_ids(["a"], special=True)
    extra = len(wrapped) - len(plain)
    for at in range(extra + 1):
        if wrapped[at : at + len(plain)] == plain:
            return wrapped[:at], wrapped[at + len(plain) :]
    raise UnusableTokenizerError("it does more to a text than to put special tokens around it")


def _templates(
    folder: Path, config: Mapping[str, Any], names: Mapping[str, str], strftime: Strftime
) -> dict[str, ChatTemplate]:
    """Return the chat templates by name; none where an engine would not use them."""
    if OWN_RENDERERS.intersection(_read(folder / "config.json").get("architectures") or ()):
        return {}
    sources = _template_sources(folder, config)
    of_processor = _read(folder / "chat_template.json").get("chat_template")
    if of_processor is not None and of_processor != sources.get("default"):
        return {}
    for name in SPECIAL_NAMES:  # what its tokenizer's class would put there is not in the files
        if (
            name not in config
            and name not in names
            and any(name in text for text in sources.values())
        ):
            return {}
    try:
        return {name: ChatTemplate(text, names, strftime) for name, text in sources.items()}
    except jinja2.TemplateError:
        return {}


def _template_sources(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    sources: dict[str, str] = {}
    given = config.get("chat_template")
    if isinstance(given, str):
        sources["default"] = given
    elif isinstance(given, list):
        sources.update((each["name"], each["template"]) for each in given)
    files = [*folder.glob("additional_chat_templates/*.jinja"), folder / "chat_template.jinja"]
    for file in files:
        name = "default" if file.name == "chat_template.jinja" else file.stem
        if file.is_file():
            sources[name] = file.read_text("utf-8")
    return sources
