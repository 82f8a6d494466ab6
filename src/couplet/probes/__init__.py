"""What is measured of a finished training besides its samples: its gradients, its pairs, their velocities."""

from couplet.probes.gradient import GradientVariance, gradient_variance
from couplet.probes.levels import Coupled, Estimate, regulariser, transport_cost
from couplet.probes.plane import Segment, plane

__all__ = [
    "Coupled",
    "Estimate",
    "GradientVariance",
    "Segment",
    "gradient_variance",
    "plane",
    "regulariser",
    "transport_cost",
]
