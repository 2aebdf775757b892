from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import orjson
import pytest
from typer.testing import CliRunner, Result

import headrace
from headrace.cli.app import app


def headrace_cli(*words: str) -> Result:
    return CliRunner().invoke(app, list(words), env={"COLUMNS": "200"})


def test_version_is_printed() -> None:
    result = headrace_cli("version")
    assert (result.exit_code, result.output) == (0, f"headrace {headrace.__version__}\n")


@pytest.mark.parametrize(
    "command", ["up", "fleet", "gateway", "replay", "twin", "explain", "config"]
)
def test_every_command_explains_itself(command: str) -> None:
    result = headrace_cli(command, "--help")
    assert result.exit_code == 0
    assert "Usage" in result.output


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys\n"
        "from headrace.cli.app import app\n"
        "heavy = {'fastapi', 'matplotlib', 'numpy', 'uvicorn', 'aiohttp', 'zmq', 'pydantic'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "[]\n"


def test_an_unknown_option_stops_with_2() -> None:
    assert headrace_cli("up", "--nonsense").exit_code == 2


@pytest.mark.parametrize(
    ("kind", "said"), [("up", "expected-ttft"), ("gateway", "expected-ttft"), ("fleet", "readers")]
)
def test_config_show_prints_a_file_that_checks(tmp_path: Path, kind: str, said: str) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(headrace_cli("config", "show", "--kind", kind).stdout)
    result = headrace_cli("config", "check", "--kind", kind, str(file))
    assert result.exit_code == 0, result.output
    assert said in result.stdout


def test_config_check_names_every_wrong_key_and_the_known_ones(tmp_path: Path) -> None:
    file = tmp_path / "up.yaml"
    file.write_text("gateway: {prot: 1, port: 99999}\nrouter: {policy: fastest}\n")
    result = headrace_cli("config", "check", str(file))
    assert result.exit_code == 2
    assert result.stdout == ""
    for words in (
        "gateway.prot: unknown key",
        "port",
        "gateway.port",
        "router.policy",
        "round-robin",
    ):
        assert words in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("up", "--policy", "fastest"), "router.policy"),
        (("up", "--hardware", "B9000"), "B9000"),
        (("up", "--engine", "gpt"), "fleet.engine"),
        (("up", "--config", "/nonexistent.yaml"), "/nonexistent.yaml"),
        (("gateway",), "--endpoint"),
        (("gateway", "--endpoint", "nowhere"), "endpoints.0.url"),
        (("gateway", "--endpoints-file", "/nonexistent.yaml"), "discovery.path: /nonexistent.yaml"),
        (("gateway", "--socket", "/s", "--kube"), "only one of them"),
        (("gateway", "--socket", "/s", "--fleet-name", "f"), "fleet: for discovery.kind ray"),
        (("fleet",), "publish.socket: needed"),
        (("fleet", "--socket", "/nonexistent/s"), "publish.socket: /nonexistent/s"),
        (("fleet", "--socket", f"/{'x' * 120}"), "longer than 107 bytes"),
        (("fleet", "-f", "/nonexistent.yaml", "--model", "m"), "--model: not with --model-service"),
        (("replay", "--workload", "dreams"), "dreams"),
        (("replay", "--trace", "/nonexistent.jsonl"), "/nonexistent.jsonl"),
        (("replay", "--url", "gopher://x"), "url"),
        (("replay", "--url", "http://127.0.0.1:1", "--limit", "1"), "127.0.0.1:1"),
        (("replay", "--json", "/nonexistent/x.json"), "json"),
        (("twin", "--hardware", "B9000"), "B9000"),
        (("twin", "--sim-model", "GPT-9"), "GPT-9"),
        (("twin", "--policy", "fastest"), "fastest"),
        (("twin", "--hardware", "L4", "--sim-model", "Llama-3.1-70B", "--tp", "1"), "tp"),
    ],
)
def test_a_wrong_setting_stops_with_2_and_its_name(words: tuple[str, ...], named: str) -> None:
    result = headrace_cli(*words)
    assert result.exit_code == 2
    assert named in result.stderr
    assert "Traceback" not in result.output


def test_twin_compares_policies_and_writes_figures_and_a_plot(tmp_path: Path) -> None:
    json, plot = tmp_path / "twin.json", tmp_path / "twin.png"
    words = ["twin", "--limit", "40", "--policy", "expected-ttft", "--policy", "round-robin"]
    result = headrace_cli(*words, "--json", str(json), "--plot", str(plot))
    assert result.exit_code == 0, result.output
    written = orjson.loads(json.read_bytes())
    assert written["figures"]["expected-ttft.served"] == 40
    assert written["figures"]["round-robin.ttft_p99_s"] > 0
    assert set(written["digests"]) == {"expected-ttft", "round-robin"}
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert "TTFT mean" in result.stdout


def test_the_twin_can_do_without_kv_events_and_without_holding(tmp_path: Path) -> None:
    json = tmp_path / "twin.json"

    def written(*words: str) -> dict[str, dict[str, float]]:
        asked = ["twin", "--limit", "150", "--engines", "1", "--rate", "60", "--hardware", "L4"]
        result = headrace_cli(*asked, "--json", str(json), *words)
        assert result.exit_code == 0, result.output
        found = orjson.loads(json.read_bytes())
        assert isinstance(found, dict)
        return found

    ttft = "expected-ttft.ttft_mean_s"
    alone = written("--hold", "0", "--no-kv-events")
    assert alone["router"] == {"kv_events": False, "hold_requests": 0}
    assert written()["figures"][ttft] < alone["figures"][ttft]
