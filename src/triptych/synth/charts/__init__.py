"""Builders of charts, and of questions whose answers stand in them."""
