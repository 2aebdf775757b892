"""The command line. Composition only."""
