"""Training: stages, the loop over thin engines, exact checkpoints, and what a run tells."""
