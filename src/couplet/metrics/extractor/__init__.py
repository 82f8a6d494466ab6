"""What turns images into features. A new extractor is one file here and its class in ``couplet.config``."""

from couplet.metrics.extractor.base import (
    CARD,
    Extractor,
    Features,
    Pixels,
    ahead,
    extracts,
    implementation,
    load_extractor,
    rgb,
)
from couplet.metrics.extractor.classifier import (
    EXTRACTOR,
    Classifier,
    ClassifierExtractor,
    Trained,
    save_classifier,
    train_classifier,
)
from couplet.metrics.extractor.dinov2 import DinoV2Extractor
from couplet.metrics.extractor.inception import InceptionExtractor
from couplet.metrics.extractor.values import ValuesExtractor

__all__ = [
    "CARD",
    "EXTRACTOR",
    "Classifier",
    "ClassifierExtractor",
    "DinoV2Extractor",
    "Extractor",
    "Features",
    "InceptionExtractor",
    "Pixels",
    "Trained",
    "ValuesExtractor",
    "ahead",
    "extracts",
    "implementation",
    "load_extractor",
    "rgb",
    "save_classifier",
    "train_classifier",
]
