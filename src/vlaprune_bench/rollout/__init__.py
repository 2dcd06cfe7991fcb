"""Episodes: one loop, and the engine that runs many and writes their rows."""
