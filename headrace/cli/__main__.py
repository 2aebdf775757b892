"""Entry point of ``headrace`` and ``python -m headrace.cli``."""

from __future__ import annotations

from headrace.cli.app import app


def main() -> None:
    """Run the command line; exits 2 on a bad option or setting."""
    app(prog_name="headrace")


if __name__ == "__main__":
    main()
