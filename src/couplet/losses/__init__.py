"""What is minimised: a distance per image and the weight of its noise levels."""

from couplet.losses.distance import (
    Distance,
    elementwise_pseudo_huber,
    ict_c,
    pseudo_huber,
    squared_l2,
)
from couplet.losses.distance import build as build_distance
from couplet.losses.weighting import InverseGap, Karras, Uniform, Weighting
from couplet.losses.weighting import build as build_weighting

__all__ = [
    "Distance",
    "InverseGap",
    "Karras",
    "Uniform",
    "Weighting",
    "build_distance",
    "build_weighting",
    "elementwise_pseudo_huber",
    "ict_c",
    "pseudo_huber",
    "squared_l2",
]
