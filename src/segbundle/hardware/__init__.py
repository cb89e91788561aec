"""Measure the memory of the host, of its control groups, and of GPUs."""
