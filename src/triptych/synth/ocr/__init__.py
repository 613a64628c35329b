"""Builders of data that has to be read: the answers are nowhere but in the pixels."""
