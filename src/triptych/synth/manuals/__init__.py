"""Interleaved documents from HTML manuals."""
