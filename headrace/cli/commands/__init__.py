"""What can be typed: one module per command, options and help only."""
