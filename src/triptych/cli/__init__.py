"""The command line: one thin module per verb, and a table of them in ``main``."""
