"""Kernels: the slow reference, and what runs instead of it."""
