"""Sockets and tasks around the KV cache's pure parts."""
