"""Moves fleets towards what their specs ask for."""
