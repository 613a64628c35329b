"""Builders of conversations over one or several images."""
