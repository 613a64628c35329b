"""Questions about words, without images."""
