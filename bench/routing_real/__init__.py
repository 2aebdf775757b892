"""The gateway beside the rivals' own programs, over real HTTP and the same simulated engines."""
