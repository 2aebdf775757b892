"""Chat templates: a conversation becomes the text that an engine would tokenise. Pure.

Needs jinja2 (extra ``tokenizers``). Templates come with a model, never from a client, and run in
Jinja's sandbox all the same.

Source, throughout: transformers 5.19, ``utils/chat_template_utils.py``, for how templates are
compiled and rendered; vLLM 0.32.0, ``renderers/hf.py``, for what they are given.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from typing_extensions import override

from gateway.conversation import Conversation, Message

_OPEN_END: Final = "CONTINUE_FINAL_MESSAGE_TAG "
"""Put behind the last message's text, to find where the template's own ending begins."""

SPECIAL_NAMES: Final = (
    *("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"),
)
"""Variables that templates may use for special tokens."""

_FAILURES: Final = (
    *(jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError),
    *(ArithmeticError, RuntimeError, AssertionError),
)
"""What a template raises on a conversation it was not written for; engines answer it with 400."""

Strftime = Callable[[str], str]


class ChatTemplate:
    """One compiled template; ``source`` is its text.

    Args:
        source: The template.
        special_tokens: Texts of the special tokens by the names of ``SPECIAL_NAMES``.
        strftime: The local time in a given format; some templates date the system message.

    Raises:
        jinja2.TemplateError: if it does not compile.

    """

    def __init__(self, source: str, special_tokens: Mapping[str, str], strftime: Strftime) -> None:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
        )
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = strftime
        self._template = environment.from_string(source)
        self._special_tokens = dict(special_tokens)
        self._in_parts = _wants_parts(environment.parse(source))
        self.source = source

    def render(self, conversation: Conversation) -> str | None:
        """Return the text of a conversation, or None where the engine would refuse or we cannot."""
        messages = [self._shown(message) for message in conversation.messages]
        last = messages[-1].get("content")
        open_text = ""
        if conversation.continue_final:
            if "content" not in self.source:
                return None
            found = self._mark_end(messages[-1], last)
            if found is None:
                return None
            open_text = found
        variables = {**self._special_tokens, **conversation.arguments}
        variables.setdefault("add_generation_prompt", False)
        variables.setdefault("documents", None)
        # how it ends is ours to do; templates are not told
        variables.pop("continue_final_message", None)
        try:
            text = self._template.render(variables, messages=messages, tools=conversation.tools)
        except _FAILURES:
            return None
        return _cut_end(text, open_text) if conversation.continue_final else text

    def _shown(self, message: Message) -> dict[str, Any]:
        """Return a message as the template sees it: its content in parts or as one text."""
        content: str | list[dict[str, str]] = "\n".join(message.texts)
        if self._in_parts and message.role != "tool":
            content = [{"type": "text", "text": text} for text in message.texts]
        return {"role": message.role, "content": content, **message.extra}

    @staticmethod
    def _mark_end(message: dict[str, Any], content: object) -> str | None:
        if isinstance(content, str):
            message["content"] = content + _OPEN_END
            return content
        if not isinstance(content, list) or not content:
            return None
        text: str = content[-1]["text"]
        content[-1]["text"] = text + _OPEN_END
        return text


def _cut_end(text: str, last: str) -> str | None:
    """Return ``text`` up to where the last message's own text ends."""
    tag = _OPEN_END.strip()
    at = text.rfind(tag)
    if at < 0 or last.strip() not in text:
        return None
    kept = text[:at]
    return kept if text.startswith(_OPEN_END, at) else kept.rstrip()


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON for models, not for HTML: Jinja's own filter escapes for the latter."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


class _Generation(Extension):
    """``{% generation %}`` marks what a model is trained on; to us it is only its content."""

    tags = {"generation"}  # noqa: RUF012 -- Jinja reads it off the class

    @override
    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("_content")
        return nodes.CallBlock(call, [], [], body).set_lineno(line)

    @staticmethod
    def _content(caller: Macro) -> str:
        return str(caller())


def _wants_parts(root: nodes.Template) -> bool:
    """Whether the template goes through a message's content part by part.

    vLLM then hands it lists of parts, else one text, and decides by the template's code alone: a
    loop over the content of a loop variable over the messages, over a macro's parameter that gets
    a content, or over a variable called ``content`` outside macros.

    Source: vLLM 0.32.0, ``_iter_nodes_assign_content_item``.
    """
    try:
        messages = set(_message_names(root))
        inside, parameters = _macro_loops(root, messages)
        for loop in root.find_all(nodes.For):
            over = loop.iter.name if isinstance(loop.iter, nodes.Name) else ""
            if (
                any(_is_of(loop.iter, name, "content") for name in messages)
                or over in parameters.get(id(loop), ())
                or (over == "content" and id(loop) not in inside)
            ):
                _target(loop.target)
                return True
    except _OddTemplateError:
        pass
    return False


class _OddTemplateError(Exception):
    """vLLM's look at the template fails here, and takes it for one of whole texts."""


def _message_names(root: nodes.Template) -> Iterator[str]:
    """Yield the loop variables that stand for a message."""
    lists, todo = ["messages"], ["messages"]
    while todo:
        name = todo.pop(0)
        for assign in root.find_all(nodes.Assign):
            if not _is_of(assign.node, name):
                continue
            target = _target(assign.target)
            if target not in lists:
                lists.append(target)
                todo.append(target)
    for loop in root.find_all(nodes.For):
        if any(_is_of(loop.iter, name) for name in lists):
            yield _target(loop.target)


def _target(node: nodes.Node) -> str:
    if not isinstance(node, nodes.Name):
        raise _OddTemplateError
    return node.name


def _macro_loops(root: nodes.Template, messages: set[str]) -> tuple[set[int], dict[int, set[str]]]:
    """Return the loops inside macros, and per loop the macro's parameters that get a content."""
    inside: set[int] = set()
    parameters: dict[int, set[str]] = {}
    for macro in root.find_all(nodes.Macro):
        names = [argument.name for argument in macro.args]
        fed: set[str] = set()
        for call in root.find_all(nodes.Call):
            if not isinstance(call.node, nodes.Name) or call.node.name != macro.name:
                continue
            given = [*zip(names, call.args, strict=False)]
            given += [(each.key, each.value) for each in call.kwargs if each.key in names]
            fed |= {
                name
                for name, value in given
                if any(_is_of(value, message, "content") for message in messages)
            }
        for loop in macro.find_all(nodes.For):
            inside.add(id(loop))
            if fed:
                parameters[id(loop)] = fed
    return inside, parameters


def _is_of(node: nodes.Node | None, name: str, key: str | None = None) -> bool:
    """Whether ``node`` is the variable (or its member ``key``), filtered, tested or sliced."""
    while isinstance(node, nodes.Filter | nodes.Test) or (
        isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice)
    ):
        node = node.node
    if key is None:
        return isinstance(node, nodes.Name) and node.ctx == "load" and node.name == name
    if isinstance(node, nodes.Getitem):
        named = isinstance(node.arg, nodes.Const) and node.arg.value == key
        return named and _is_plain(node.node, name)
    return isinstance(node, nodes.Getattr) and node.attr == key and _is_plain(node.node, name)


def _is_plain(node: nodes.Node, name: str) -> bool:
    return isinstance(node, nodes.Name) and node.ctx == "load" and node.name == name
