"""One file per routing policy."""
