"""The engine's side: clients, load reports, process launch. Never decides where anything goes."""
