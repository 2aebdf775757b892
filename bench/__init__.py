"""Every benchmark; ``make bench-<name>`` runs one and writes ``bench/results/<name>.json``."""
