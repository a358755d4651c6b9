"""Adam in the place of the optimizer."""

from __future__ import annotations

from dataclasses import dataclass

from trimtab import optim
from trimtab.recipe import Technique
from trimtab.techniques.engines.becoming import Becomes


@dataclass(frozen=True)
class Adam(Becomes, Technique):
    """Turns the optimizer into Adam, in place: the script and its schedulers go on holding it.

    ``w <- w - lr m / (sqrt(v) + eps)`` with m and v running means of the gradient and of its square, corrected for their start. The
    rate is that of the group with the largest one; the others keep their ratio to it, and a schedule keeps its shape. All
    optimizers of the training are turned. Their state begins anew.

    Helps: gradients of very unlike size (embeddings, attention, inputs in raw units), rates that cannot be tuned, deep networks whose
    gradient vanishes. Hurts: convolutional networks on images, where a tuned sgd often generalizes better. Good first
    setting: the default. Clashes with other optimizers and learning_rate.

    Args:
        lr: the base learning rate, positive.
        betas: the shares of the old means that stay.
        eps: added to the root.
        weight_decay: added to the gradient as ``weight_decay * w``; None keeps the factors of the script, and their kind.
        amsgrad: divide by the largest mean square so far.

    Source: Kingma & Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015; :class:`trimtab.optim.Adam`.

    >>> import torch, trimtab as tt
    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    >>> training = tt.attach(model, optimizer).apply("adam(lr=0.1)")
    >>> before = model.weight.item()
    >>> model(torch.full((1, 1), 5.0)).sum().backward(); optimizer.step()
    >>> round(before - model.weight.item(), 4), type(optimizer).__name__
    (0.1, 'Adam')
    """

    part = optim.Adam

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float | None = None
    amsgrad: bool = False
