"""One pure step, and the loop, state, average and optimiser around it."""

from couplet.training.loop import Progress, draws_of, initial_state, replace_nonfinite_, run
from couplet.training.state import State
from couplet.training.step import (
    Draws,
    Objective,
    Phase,
    Terms,
    build_objective,
    consistency_loss,
    couple,
)

__all__ = [
    "Draws",
    "Objective",
    "Phase",
    "Progress",
    "State",
    "Terms",
    "build_objective",
    "consistency_loss",
    "couple",
    "draws_of",
    "initial_state",
    "replace_nonfinite_",
    "run",
]
