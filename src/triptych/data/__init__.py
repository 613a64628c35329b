"""Data: records, readers, batches by two budgets, and the checks before training."""
