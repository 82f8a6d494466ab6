"""How an image becomes noisy: variance exploding or linear interpolation."""

from couplet.config.recipes import Kernel as KernelName
from couplet.config.recipes import Recipe
from couplet.kernels.base import Kernel, Scalings, time_embedding_input
from couplet.kernels.linear_interpolation import LinearInterpolation
from couplet.kernels.variance_exploding import VarianceExploding

KERNELS: dict[KernelName, type[Kernel]] = {"ve": VarianceExploding, "li": LinearInterpolation}


def build(name: KernelName, recipe: Recipe) -> Kernel:
    """The kernel called ``name`` over the recipe's range of noise levels."""
    return KERNELS[name](recipe.sigma_min, recipe.sigma_max, recipe.sigma_data)


__all__ = [
    "KERNELS",
    "Kernel",
    "LinearInterpolation",
    "Scalings",
    "VarianceExploding",
    "build",
    "time_embedding_input",
]
