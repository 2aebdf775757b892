from __future__ import annotations

import pytest

from headrace.core.errors import InvalidRequest
from headrace.runtime.artifacts.allowed import check_allowed, parse_uri


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/models/a", "file:///models/a"),
        ("file:///models/a/", "file:///models/a/"),
        ("HTTPS://Models.Example.com:8443/a/b", "https://models.example.com:8443/a/b"),
        ("https://host/a/b?signature=s3cret", "https://host/a/b?…"),
        ("s3://Bucket/deep/key", "s3://Bucket/deep/key"),
        ("hf://Qwen/Qwen3-8B@refs%2Fpr%2F1", None),
        ("hf://Qwen/Qwen3-8B@main", "hf://Qwen/Qwen3-8B@main"),
        ("gs://bucket/with space", "gs://bucket/with space"),
    ],
)
def test_a_uri_is_read_and_shown_without_its_signature(text: str, shown: str | None) -> None:
    if shown is None:
        with pytest.raises(InvalidRequest):
            parse_uri(text)
    else:
        assert parse_uri(text).shown == shown


@pytest.mark.parametrize(
    "text",
    [
        "",
        "models/a",
        "ftp://host/a",
        "s3://",
        "s3://bucket",
        "hf:///x",
        "file://host/a",
        "https://user:password@host/a",
        "https://host:port/a",
        "https://host/a#b",
        "s3://bucket/a?versionId=1",
        "/models/../etc/passwd",
        "/models/./a",
        "/models//a",
        "https://host/%2e%2e/a",
        "https://host/a%2fb",
        "https://host/a%00",
        "https://host/a%252fb",
        "https://host\\@other/a",
        "https://host/a\nb",
        "https://höst/a",
        "s3://bucket/" + "a" * 3_000,
    ],
)
def test_what_two_readers_might_read_differently_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        parse_uri(text)
    assert raised.value.field == "source"


@pytest.mark.parametrize(
    ("source", "prefix", "allowed"),
    [
        ("s3://models/adapters/a", "s3://models/adapters", True),
        ("s3://models/adapters-of-others/a", "s3://models/adapters", False),
        ("s3://models/adapters", "s3://models/adapters/", True),
        ("s3://models2/adapters/a", "s3://models", False),
        ("hf://any/thing", "hf://", True),
        ("hf://any/thing", "s3://", False),
        ("http://models.example.com/a", "https://models.example.com/", False),
        ("https://models.example.com.evil.com/a", "https://models.example.com/", False),
        ("https://models.example.com:444/a", "https://models.example.com/", False),
        ("https://MODELS.example.com/a", "https://models.example.com/", True),
        ("/mnt/models/a", "file:///mnt/models", True),
        ("/mnt/models2/a", "/mnt/models", False),
    ],
)
def test_prefixes_are_compared_by_whole_segments(source: str, prefix: str, allowed: bool) -> None:
    allow = [parse_uri(prefix, prefix=True)]
    if allowed:
        check_allowed(parse_uri(source), allow)
    else:
        with pytest.raises(InvalidRequest, match="not allowed"):
            check_allowed(parse_uri(source), allow)
