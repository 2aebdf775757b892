"""Places that keep artifacts: one file per kind."""
