"""Talking to a Kubernetes API server: objects are plain dicts, errors typed, limits stated."""
