"""Builders of training and evaluation data: they write ordinary records and image files."""
