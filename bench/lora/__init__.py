"""Placement of adapters beside AIBrix's and plain LRU, in the twin."""
