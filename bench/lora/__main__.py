"""``python -m bench.lora``: figures of adapter placement in the twin, as a table.

``make e2e-lora`` runs it and joins it with what two real vLLM workers did: tests/e2e/lora.
"""

from __future__ import annotations

import sys

from rich.console import Console
from rich.table import Table

from bench.lora.figures import CASES, KEYS, measure

COLUMNS = ("added_p50_ms", "added_p99_ms", "added_mean_ms", "loads", "hit_ratio")


def main() -> None:
    """Run everything and print one table."""
    figures, _ = measure(lambda name: sys.stderr.write(f"{name}\n"))
    table = Table("case", "contender", *COLUMNS)
    for case in CASES:
        for name, key in KEYS.items():
            values = (figures[f"{case.name}.{key}.{column}"] for column in COLUMNS)
            table.add_row(case.name, name, *(f"{value:.4g}" for value in values))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
