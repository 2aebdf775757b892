"""A workload through the production router: in virtual time, or replayed live."""
