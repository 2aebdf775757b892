"""Artifacts in an S3-compatible store: moto's server, which answers the real client over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest

from headrace.core.errors import ArtifactError
from tests.integration.runtime.conftest import MakeStore
from tests.integration.runtime.test_fetch import digest_of, read

WEIGHTS = Random(5).randbytes(700_001)
FILES = {"adapter_config.json": b'{"r": 8}', "deep/adapter_model.safetensors": WEIGHTS}


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """Run a server with one bucket; return its URL."""
    moto = pytest.importorskip("moto.server", reason="moto's S3 server is not installed")
    pytest.importorskip("s3fs", reason="the S3 client is not installed: headrace[artifacts]")
    server: Any = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return a client of the bucket ``models``; credentials are where clients look for them."""
    boto3 = pytest.importorskip("boto3", reason="comes with moto")
    for name, value in (
        ("AWS_ACCESS_KEY_ID", "key"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
    ):
        monkeypatch.setenv(name, value)
    client: Any = boto3.client("s3", endpoint_url=s3)
    client.create_bucket(Bucket="models")
    for name, body in FILES.items():
        client.put_object(Bucket="models", Key=f"adapters/ad/{name}", Body=body)
    client.put_object(Bucket="models", Key="adapters/ad2/other", Body=b"not ours")
    yield client
    client.close()


async def test_a_prefix_of_a_bucket_is_fetched_in_ranges(
    bucket: Any, s3: str, make_store: MakeStore
) -> None:
    store = make_store(allow=("s3://models/adapters/ad",), s3={"endpoint_url": s3})
    lease = await store.fetch("ad", "s3://models/adapters/ad", None)
    assert read(lease.path) == FILES
    assert lease.digest == digest_of(FILES)
    again = await store.fetch("ad", "s3://models/adapters/ad", None)
    assert again.path == lease.path
    await asyncio.to_thread(
        bucket.put_object, Bucket="models", Key="adapters/ad/adapter_config.json", Body=b"{}"
    )
    changed = await store.fetch("ad", "s3://models/adapters/ad", None)
    assert changed.path != lease.path
    for one in (lease, again, changed):
        one.release()


async def test_one_object_is_a_folder_of_one_file(
    bucket: Any, s3: str, make_store: MakeStore
) -> None:
    store = make_store(allow=("s3://models",), s3={"endpoint_url": s3})
    source = "s3://models/adapters/ad/deep/adapter_model.safetensors"
    lease = await store.fetch("w", source, None)
    assert read(lease.path) == {"adapter_model.safetensors": WEIGHTS}
    lease.release()


async def test_a_bucket_or_prefix_that_is_not_there_is_told(
    bucket: Any, s3: str, make_store: MakeStore
) -> None:
    store = make_store(allow=("s3://",), s3={"endpoint_url": s3})
    for source in ("s3://models/nothing", "s3://nowhere/x"):
        with pytest.raises(ArtifactError):
            await store.fetch("w", source, None)


async def test_a_store_that_does_not_answer_may_do_so_later(
    make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("s3fs", reason="the S3 client is not installed: headrace[artifacts]")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    nobody = {"endpoint_url": "http://127.0.0.1:9", "region": "us-east-1"}
    with pytest.raises(ArtifactError) as raised:
        await make_store(allow=("s3://",), s3=nobody, tries=2).fetch("w", "s3://models/x", None)
    assert raised.value.retry_safe


async def test_a_client_that_is_not_installed_is_named(
    make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsspec = pytest.importorskip("fsspec", reason="comes with headrace[artifacts]")

    def missing(*_: object, **__: object) -> None:
        raise ImportError("Install gcsfs")

    monkeypatch.setattr(fsspec, "filesystem", missing)
    with pytest.raises(ArtifactError, match=r"headrace\[artifacts\]"):
        await make_store(allow=("gs://",)).fetch("w", "gs://models/x", None)
