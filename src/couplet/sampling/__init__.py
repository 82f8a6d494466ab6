"""Images from a trained model, one seed per sample."""

from couplet.sampling.generate import Images, generate
from couplet.sampling.multistep import multistep, sample_noise, to_uint8

__all__ = ["Images", "generate", "multistep", "sample_noise", "to_uint8"]
