"""Training: one pure step, and the loop, state, average and optimiser around it."""
