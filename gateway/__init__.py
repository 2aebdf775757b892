"""The OpenAI-compatible HTTP surface: admission, relay, retries. Decides no placement."""
