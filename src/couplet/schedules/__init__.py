"""How a step draws its two noise levels t > r."""

from couplet.config.recipes import Continuous as ContinuousConfig
from couplet.config.recipes import Denoising as DenoisingConfig
from couplet.config.recipes import Discretised as DiscretisedConfig
from couplet.config.recipes import Recipe
from couplet.schedules.base import Schedule
from couplet.schedules.continuous import Continuous, const_mapping, sigmoid_mapping, stage_of
from couplet.schedules.denoising import Denoising
from couplet.schedules.discretised import (
    Discretised,
    grid_points,
    lognormal_probabilities,
    sigma_grid,
)


def build(recipe: Recipe, *, max_level: float) -> Schedule:
    """The recipe's schedule over its whole training; ``max_level`` is the kernel's largest t.

    Raises:
        TypeError: no schedule is registered for the configuration's class.
    """
    config = recipe.schedule
    if isinstance(config, DiscretisedConfig):
        return Discretised(
            config,
            sigma_min=recipe.sigma_min,
            sigma_max=recipe.sigma_max,
            total_steps=recipe.steps,
        )
    if isinstance(config, ContinuousConfig):
        return Continuous(config, sigma_max=recipe.sigma_max, max_level=max_level, total_steps=recipe.steps)
    if isinstance(config, DenoisingConfig):
        return Denoising(config, sigma_max=recipe.sigma_max, max_level=max_level)
    raise TypeError(f"no schedule for {type(config).__name__}")


__all__ = [
    "Continuous",
    "Denoising",
    "Discretised",
    "Schedule",
    "build",
    "const_mapping",
    "grid_points",
    "lognormal_probabilities",
    "sigma_grid",
    "sigmoid_mapping",
    "stage_of",
]
