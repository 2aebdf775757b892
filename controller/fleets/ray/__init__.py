"""Replicas on a Ray cluster: placed by placement groups, kept running by detached supervisors."""
