"""Builders of Set-of-Mark data: numbered things in a picture, and questions about them."""
