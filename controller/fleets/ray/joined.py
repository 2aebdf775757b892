"""Waits until every node of a Ray cluster has joined. Run as a script before an engine is started.

    python joined.py --nodes 2 [--cards-per-node 8] [--within 1800]

It uses nothing but the standard library and Ray, because it runs in images of engines, which it
reaches as text (see ``kuberay.py``): an engine started earlier would find too few cards and fail.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

POLL_S = 1.0


def complete(nodes: Sequence[Mapping[str, Any]], count: int, cards: float) -> bool:
    """Return whether so many nodes are alive with so many cards each; ``ray.nodes()``'s form."""
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    enough = [each for each in alive if each.get("GPU", 0.0) >= cards]
    return len(enough) >= count


def main() -> int:
    """Wait; return 0 once all have joined, 1 when they have not in time."""
    made = argparse.ArgumentParser(description="Wait until all nodes of a Ray cluster have joined.")
    made.add_argument("--nodes", type=int, required=True, help="how many, the head included")
    made.add_argument("--cards-per-node", type=float, default=0.0, help="Ray's GPUs of each")
    made.add_argument("--within", type=float, default=1_800.0, help="seconds")
    args = made.parse_args()
    ray: Any = importlib.import_module("ray")  # here, so that --help needs none

    until_s = time.monotonic() + args.within
    while time.monotonic() < until_s:
        try:
            ray.init(address="auto", log_to_driver=False, configure_logging=False)
            break
        except (ConnectionError, RuntimeError):  # the head's own node is still starting
            time.sleep(POLL_S)
    while time.monotonic() < until_s:
        if ray.is_initialized() and complete(ray.nodes(), args.nodes, args.cards_per_node):
            ray.shutdown()
            sys.stderr.write(f"all {args.nodes} node(s) have joined\n")
            return 0
        time.sleep(POLL_S)
    sys.stderr.write(f"not all of {args.nodes} node(s) joined within {args.within} s\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
