"""Maps with marked regions."""
