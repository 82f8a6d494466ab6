"""What a user may set, as closed models; the lowest room, free of torch."""

from couplet.config.base import Closed, Floats, Ints, Invalid, OneOf, Variant
from couplet.config.cells import Cell, Grid, Measurement, Training
from couplet.config.layout import Layout
from couplet.config.params import Params, read_params

__all__ = [
    "Cell",
    "Closed",
    "Floats",
    "Grid",
    "Ints",
    "Invalid",
    "Layout",
    "Measurement",
    "OneOf",
    "Params",
    "Training",
    "Variant",
    "read_params",
]
