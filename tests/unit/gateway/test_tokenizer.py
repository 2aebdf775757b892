from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from gateway.conversation import Conversation, read_conversation
from gateway.readers import UnusableTokenizerError
from gateway.tokenizer import find_folder, load_tokenizer
from tests.support.made_tokenizers import BOS, KINDS, make_folder


def conversation(**fields: Any) -> Conversation:
    body = {"messages": [{"role": "user", "content": "hello"}], **fields}
    read = read_conversation(json.dumps(body).encode())
    assert read is not None
    return read


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_has_the_tokens_that_the_library_gives_it(kind: str, tmp_path: Path) -> None:
    loaded = load_tokenizer(make_folder(tmp_path, kind, bos=True), str)
    plain = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    text = " One of  the\n\nhalves, na\u00efve \u4e2d\u6587 <|end|> it's"
    (ids,) = loaded.encode([text])
    assert ids.tolist() == plain.encode(text, add_special_tokens=False).ids
    assert [*loaded.prefix, *ids.tolist(), *loaded.suffix] == plain.encode(text).ids
    assert loaded.prefix == [plain.token_to_id(BOS)]


def test_special_tokens_of_the_configuration_are_special(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, pad_token="<|pad|>", additional_special_tokens=["<|more|>"])
    (ids,) = load_tokenizer(folder, str).encode(["a<|pad|><|more|>"])
    assert len(ids) == 3


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("tokenizer.json", None, "No such file"),
        ("tokenizer.json", "[]", "got `array`"),
        ("tokenizer.json", "{", "tokenizer.json"),
        ("tokenizer.json", '{"model": {}}', "."),
        ("tekken.json", "{}", "Mistral"),
        ("tokenizer_config.json", '{"split_special_tokens": true}', "splits"),
        ("tokenizer_config.json", '{"eos_token": {"content": "<no>"}}', "lacks '<no>'"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"9": {"content": "x"}}}', "lacks 'x'"),
    ],
)
def test_files_that_do_not_say_it_all_are_not_used(
    name: str, content: str | None, reason: str, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path)
    (folder / name).unlink(missing_ok=True)
    if content is not None:
        (folder / name).write_text(content)
    with pytest.raises(UnusableTokenizerError, match=reason):
        load_tokenizer(folder, str)


def test_merges_dropped_by_chance_are_not_guessed_at(tmp_path: Path) -> None:
    spec = json.loads((make_folder(tmp_path) / "tokenizer.json").read_text())
    spec["model"]["dropout"] = 0.1
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    with pytest.raises(UnusableTokenizerError, match="by chance"):
        load_tokenizer(tmp_path, str)


def test_tools_have_a_template_of_their_own_where_there_is_one(tmp_path: Path) -> None:
    folder = make_folder(
        tmp_path,
        template=None,
        chat_template=[
            {"name": "default", "template": "plain"},
            {"name": "tool_use", "template": "tools"},
        ],
    )
    tools = [{"type": "function", "function": {"name": "f"}}]
    loaded = load_tokenizer(folder, str)
    assert loaded.chat_text(conversation()) == "plain"
    assert loaded.chat_text(conversation(tools=tools)) == "tools"


def test_a_template_in_a_file_wins_over_one_in_the_configuration(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, template="file", chat_template="configuration")
    assert load_tokenizer(folder, str).chat_text(conversation()) == "file"


@pytest.mark.parametrize(
    ("template", "files"),
    [
        (None, {}),
        ("{% broken", {}),
        ("{{ cls_token }}", {}),  # its tokenizer's class may have one that no file names
        ("plain", {"chat_template.json": {"chat_template": "the processor's"}}),
        ("plain", {"config.json": {"architectures": ["GptOssForCausalLM"]}}),
    ],
)
def test_without_a_sure_template_only_texts_are_tokenised(
    template: str | None, files: dict[str, Any], tmp_path: Path
) -> None:
    folder = make_folder(tmp_path, template=template)
    for name, value in files.items():
        (folder / name).write_text(json.dumps(value))
    loaded = load_tokenizer(folder, str)
    assert loaded.chat_text(conversation()) is None
    assert len(loaded.encode(["a text"])[0]) > 0


def test_a_model_that_is_no_folder_is_looked_for_in_the_hubs_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    assert find_folder(str(tmp_path)) == tmp_path
    cached = str(tmp_path / "snapshot" / "tokenizer.json")
    known = {"org/model": cached}
    monkeypatch.setattr(
        huggingface_hub, "try_to_load_from_cache", lambda root, _: known.get(root), raising=True
    )
    assert find_folder("org/model") == tmp_path / "snapshot"
    with pytest.raises(UnusableTokenizerError, match="no folder"):
        find_folder("org/other")
