"""What the engines hold in their KV caches, and how we know."""
