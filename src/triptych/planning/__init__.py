"""Plans: what a run would cost, before anything is allocated or downloaded."""
