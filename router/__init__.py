"""Chooses an endpoint for a request. Pure: values in, values out."""
