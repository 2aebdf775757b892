"""Plumbing every process shares; knows nothing of models or routing."""
