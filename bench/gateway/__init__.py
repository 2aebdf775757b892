"""The gateway's cost per request beside that of two Rust routers and a bare relay."""
