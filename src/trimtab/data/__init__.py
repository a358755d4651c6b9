"""Preprocessing and augmentation of inputs."""

from trimtab.data.bootstrap import bootstrap_indices, bootstrap_weights, content_weights, out_of_bag_average
from trimtab.data.images import (
    CutOut,
    RandomAffine,
    RandomHorizontalFlip,
    RandomRotation,
    RandomScale,
    RandomTranslation,
    RandomVerticalFlip,
)
from trimtab.data.min_max import MinMax
from trimtab.data.mixup import CutMix, Mix, MixUp, cutmix, mixup
from trimtab.data.noise import FeatureNoise, GaussianNoise
from trimtab.data.rand_augment import RandAugment
from trimtab.data.standardize import Standardize
from trimtab.data.tables import FeatureMasking, FeatureScaling, TimeMasking
from trimtab.data.whiten import Whiten

__all__ = [
    "CutMix",
    "CutOut",
    "FeatureMasking",
    "FeatureNoise",
    "FeatureScaling",
    "GaussianNoise",
    "MinMax",
    "Mix",
    "MixUp",
    "RandAugment",
    "RandomAffine",
    "RandomHorizontalFlip",
    "RandomRotation",
    "RandomScale",
    "RandomTranslation",
    "RandomVerticalFlip",
    "Standardize",
    "TimeMasking",
    "Whiten",
    "bootstrap_indices",
    "bootstrap_weights",
    "content_weights",
    "cutmix",
    "mixup",
    "out_of_bag_average",
]
