"""What the controller costs and how fast it is, on a real API server with made-up nodes."""
