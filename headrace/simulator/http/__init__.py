"""Simulated engines over HTTP: to a client each looks like vLLM 0.32."""
