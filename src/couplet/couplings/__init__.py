"""How data and noise are paired: one coupling in each file."""
