"""What stands beside one engine: readiness, drain, adapters, metrics, a relay of KV events."""
