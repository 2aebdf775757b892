"""The kinds of ``headrace.dev/v1alpha1``: what users write, and the CRDs made of it."""
