"""How data and noise are paired. A new coupling is one file here and its class in ``couplet.config``."""

from couplet.couplings.base import (
    Coupling,
    Pair,
    Predictor,
    Predictors,
    Setting,
    build,
    implements,
)
from couplet.couplings.generator_induced import GeneratorInduced
from couplet.couplings.independent import Independent
from couplet.couplings.minibatch import MinibatchCoupling
from couplet.couplings.minibatch_ot import MinibatchOT, assignment, cheapest
from couplet.couplings.projected import Projected, sorted_along
from couplet.couplings.sinkhorn import Sinkhorn, greedy, transport_plan
from couplet.couplings.swaps import Swaps, swapped
from couplet.couplings.variational import Variational, gaussian_kl
from couplet.couplings.variational_generator import VariationalGenerator

__all__ = [
    "Coupling",
    "GeneratorInduced",
    "Independent",
    "MinibatchCoupling",
    "MinibatchOT",
    "Pair",
    "Predictor",
    "Predictors",
    "Projected",
    "Setting",
    "Sinkhorn",
    "Swaps",
    "Variational",
    "VariationalGenerator",
    "assignment",
    "build",
    "cheapest",
    "gaussian_kl",
    "greedy",
    "implements",
    "sorted_along",
    "swapped",
    "transport_plan",
]
