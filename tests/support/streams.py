"""Streams through gateways: one after the other, counted by how they ended."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any

REQUEST_S = 60.0
DONE = b"data: [DONE]"


def open_stream(url: str, model: str, tokens: int) -> Any:
    """Return the reply to a request for so many tokens, its head read.

    Raises:
        HTTPError: when it is refused.
        OSError: when nobody answers.

    """
    body = {
        "model": model,
        "prompt": "Hello",
        "max_tokens": tokens,
        "ignore_eos": True,
        "stream": True,
    }
    request = urllib.request.Request(
        f"{url}/v1/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    return urllib.request.urlopen(request, timeout=REQUEST_S)


def rest(reply: Any) -> bool:
    """Read a stream to its end; return whether it came to one, and was not cut."""
    with reply:
        try:
            return bool(reply.read().rstrip().endswith(DONE))
        except OSError:
            return False


class Streams:
    """Callers without pause, some for each gateway, until told to end.

    Attributes:
        whole: Streams that came to their end, by gateway.
        cut: Those that did not.
        refused: What gateways answered instead of a stream.

    """

    def __init__(self, urls: Sequence[str], model: str, tokens: int, callers: int = 2) -> None:
        self.whole = dict.fromkeys(urls, 0)
        self.cut: list[str] = []
        self.refused: list[str] = []
        self._model, self._tokens = model, tokens
        self._end = threading.Event()
        self._lock = threading.Lock()
        self._callers = [
            threading.Thread(target=self._call, args=(url,)) for url in urls for _ in range(callers)
        ]

    def __enter__(self) -> Streams:
        for caller in self._callers:
            caller.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Begin no more; return when the last has ended."""
        self._end.set()
        for caller in self._callers:
            caller.join(2 * REQUEST_S)

    def until_whole(self, more: int, limit_s: float = REQUEST_S) -> None:
        """Wait until each gateway has served so many more."""
        before = dict(self.whole)
        until_s = time.monotonic() + limit_s
        while any(self.whole[url] < before[url] + more for url in before):
            assert time.monotonic() < until_s, (self.whole, self.cut, self.refused)
            time.sleep(0.02)

    def _call(self, url: str) -> None:
        while not self._end.wait(0.02):
            try:
                reply = open_stream(url, self._model, self._tokens)
            except urllib.error.HTTPError as error:
                with error, self._lock:
                    self.refused.append(f"{error.code} {error.read().decode()[:300]}")
            except OSError as error:
                with self._lock:
                    self.cut.append(f"{url}: {error!r}")
            else:
                whole = rest(reply)
                with self._lock:
                    self.whole[url] += whole
                    if not whole:
                        self.cut.append(f"{url}: no end")
