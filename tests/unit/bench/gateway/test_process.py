from __future__ import annotations

import shutil
import sys
from pathlib import Path

import psutil
import pytest

from bench.gateway.cases import ask, check_answers
from bench.gateway.process import Child, StartError, free_port
from bench.gateway.upstream import compile_upstream, served, upstream

SLEEPER = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); time.sleep(60)"

needs_cc = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")


def test_a_program_that_ends_before_it_serves_is_reported_with_its_log(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", "print('no such option'); raise SystemExit(2)"]
    child = Child("broken", argv, tmp_path / "log", core=None)
    with child, pytest.raises(StartError, match="no such option"):
        child.wait_ready(f"http://127.0.0.1:{free_port()}/", limit_s=10.0)


def test_children_of_a_child_are_stopped_with_it(tmp_path: Path) -> None:
    before = set(psutil.Process().children(recursive=True))
    with Child("tree", [sys.executable, "-c", SLEEPER], tmp_path / "log", core=None) as child:
        assert child.cpu_s() >= 0.0
        assert child.rss_bytes() > 0
        started = set(psutil.Process().children(recursive=True)) - before
        assert started
    gone, alive = psutil.wait_procs(started, timeout=5.0)
    assert not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]
    assert gone or alive


@needs_cc
def test_the_engine_answers_streams_and_counts(tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "plain.txt").write_text('{"model":"m","messages":[]}\n')
    (tmp_path / "stream.txt").write_text('{"model":"m","stream":true,"messages":[]}\n')
    with upstream(compile_upstream(tmp_path), [port], tmp_path / "log", core=0) as engine:
        engine.wait_ready(f"http://127.0.0.1:{port}/health", limit_s=10.0)
        check_answers("itself", port, port, tmp_path)
        stream = ask(port, b'{"stream": true, "stream_options": {"include_usage": true}}')
        counts = served(port)
    assert (counts.requests, counts.streams, counts.chunks) == (5, 3, 192)
    assert counts.aborted == counts.unfinished_writes == 0
    assert stream.count(b"data: ") == 66
    assert stream.count(b'"usage"') == 1
    assert stream.endswith(b"data: [DONE]\n\n")
