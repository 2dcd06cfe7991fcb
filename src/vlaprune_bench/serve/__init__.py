"""A pruned policy behind a port, for clients of openpi, RoboArena and vla-eval."""
