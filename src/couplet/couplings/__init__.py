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
from couplet.couplings.minibatch_ot import MinibatchOT, assignment, cheapest
from couplet.couplings.variational import Variational, gaussian_kl

__all__ = [
    "Coupling",
    "GeneratorInduced",
    "Independent",
    "MinibatchOT",
    "Pair",
    "Predictor",
    "Predictors",
    "Setting",
    "Variational",
    "assignment",
    "build",
    "cheapest",
    "gaussian_kl",
    "implements",
]
