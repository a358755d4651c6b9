"""The live handle on a training, its parts, our own small loop, and seeds."""

from trimtab.training.handle import Training, attach
from trimtab.training.seeds import shifted

__all__ = ["Training", "attach", "shifted"]
