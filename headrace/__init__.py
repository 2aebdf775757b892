"""What every package shares, and the command line that puts them together."""

__version__ = "0.1.0"
