"""Norms of weights: weight normalization, weight standardization, spectral normalization.

Each is a parametrization: ``module.weight`` is computed from what is learned, whenever it is read. One removes it with
``torch.nn.utils.parametrize.remove_parametrizations(module, "weight")``, which keeps the computed weight.
(A ``copy.deepcopy`` of a parametrized layer shares its class in torch 2.13: removal from one breaks the other. Remove first,
or load the ``state_dict`` into a layer made anew.)
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from trimtab.nn.checks import check_eps, check_number
from trimtab.nn.ops import row_norm

GROUP = "normalization"
STANDARDIZED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def _weight_of(part: str, module: nn.Module, name: str) -> torch.Tensor:
    weight = getattr(module, name, None)
    if not isinstance(weight, torch.Tensor):
        there = [own for own, _ in module.named_parameters(recurse=False)]
        raise ValueError(
            f"{part}({type(module).__name__}, name={name!r}): the module has no parameter of this name. It has "
            f"{', '.join(there) if there else 'none of its own: give the layer inside it'}."
        )
    return weight


def weight_norm(module: nn.Module, name: str = "weight", dim: int | None = 0) -> nn.Module:
    r"""Weight normalization: the length of each unit's weight vector is learned apart from its direction.

    .. math:: w_i = g_i \frac{v_i}{\|v_i\|_2}

    with w and v of the weight's shape, i over the entries of ``dim``, one number g_i for each. At the start w is what
    it was: v is the weight and g its lengths. This is ``torch.nn.utils.parametrizations.weight_norm`` with errors that
    say what to do. Learned and saved are ``parametrizations.weight.original0``, g, and
    ``parametrizations.weight.original1``, v.

    Args:
        module: the layer, changed in place.
        name: of its weight.
        dim: along which the units lie: 0 for linear layers and convolutions, 1 for transposed convolutions. None, and -1 as in
            torch: one length for the whole weight.

    Returns:
        The module.

    Raises:
        ValueError: for a name the module does not have, and a dim the weight does not have.

    When it helps: recurrent and generative networks and reinforcement learning, where statistics of batches disturb; it
    costs less than a norm of activations. When it hurts: deep networks with poor initial scales, since it does not keep
    activations at unit variance. Clashes with weight decay on v, whose length has no effect on the output, and with a
    norm behind the layer.

    Source: Salimans and Kingma, "Weight Normalization: A Simple Reparameterization to Accelerate Training of Deep
    Neural Networks", 2016.

    >>> layer = weight_norm(torch.nn.Linear(4, 3))
    >>> g = layer.parametrizations.weight.original0
    >>> torch.allclose(layer.weight.norm(dim=1, keepdim=True), g)
    True
    """
    weight = _weight_of("weight_norm", module, name)
    if dim is not None and not (isinstance(dim, int) and -weight.dim() <= dim < weight.dim()):
        raise ValueError(
            f"weight_norm({type(module).__name__}, dim={dim}): {name} has shape {tuple(weight.shape)}, so dim must "
            f"lie in [{-weight.dim()}, {weight.dim() - 1}], or be None for one length of the whole."
        )
    if dim is not None and dim != -1:  # which is torch's name for None
        dim %= weight.dim()
    return parametrizations.weight_norm(module, name, dim)  # type: ignore[arg-type]


def standardize_weight(
    weight: torch.Tensor, gain: torch.Tensor | None = None, eps: float = 1e-6, *, scaled: bool = False
) -> torch.Tensor:
    r"""The weight with mean 0 and variance 1 for each output unit. See :class:`WeightStandardization`.

    >>> w = standardize_weight(torch.randn(3, 4, 5, dtype=torch.float64), eps=0)
    >>> torch.allclose(w.var((1, 2), correction=0), torch.ones(3, dtype=torch.float64))
    True
    """
    rows = weight.flatten(1)
    w, _ = row_norm(rows, eps=eps)
    if scaled:
        w = w / math.sqrt(rows.shape[1])
    if gain is not None:
        w = w * gain.to(w.dtype).unsqueeze(1)
    return w.view(weight.shape)


class WeightStandardization(nn.Module):
    r"""Weight standardization as a parametrization: each output unit's weights get mean 0 and variance 1.

    .. math::
        \hat w_i = \gamma_i \frac{w_i - \mu_i}{\sqrt{\sigma_i^2 + \epsilon}} \quad \text{or, scaled,} \quad
        \hat w_i = \gamma_i \frac{w_i - \mu_i}{\sqrt{n (\sigma_i^2 + \epsilon)}}

    with w and its result of shape (out, ...), i over the output units, mean and biased variance over the unit's n
    weights (n = in / groups times the kernel), and, if asked for, a learned gain of shape (out,). One puts it on a
    layer with :func:`weight_standardization`.

    Args:
        gain: the learned gains at the start, of shape (out,), or None for no gains.
        eps: added to the variance, inside the root. Weights are small (a variance of 2/n after He initialization), so
            eps must be too. (The authors' code adds 1e-5 to an unbiased deviation instead.)
        scaled: divide by sqrt(n) too, so that unit inputs give unit outputs; for networks without norms of activations.

    >>> WeightStandardization()(torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    tensor([[-1.3416, -0.4472,  0.4472,  1.3416]])
    """

    def __init__(self, gain: torch.Tensor | None = None, eps: float = 1e-6, *, scaled: bool = False) -> None:
        super().__init__()
        check_eps("WeightStandardization", eps)
        self.gain = None if gain is None else nn.Parameter(gain)
        self.eps, self.scaled = eps, scaled

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return standardize_weight(weight, self.gain, self.eps, scaled=self.scaled)

    def right_inverse(self, weight: torch.Tensor) -> torch.Tensor:
        """What an assignment ``layer.weight = w`` stores: w itself, which the layer then standardizes."""
        return weight

    def extra_repr(self) -> str:
        return f"gain={self.gain is not None}, eps={self.eps}, scaled={self.scaled}"


def weight_standardization(
    module: nn.Module, name: str = "weight", eps: float = 1e-6, *, gain: bool = False, scaled: bool = False
) -> nn.Module:
    r"""Weight standardization: a layer uses its weight with mean 0 and variance 1 for each output unit.

    .. math:: \hat w_i = \frac{w_i - \mu_i}{\sqrt{\sigma_i^2 + \epsilon}}

    with i over the output units, mean and biased variance over the unit's weights; :class:`WeightStandardization` is the
    parametrization that does it, and says what gains and scaling add. With ``gain=True, scaled=True`` this is the layer of
    normalizer-free networks (ScaledStdConv). Learned and saved are ``parametrizations.weight.original``, and
    ``parametrizations.weight.0.gain``, at first 1.

    ``torch.nn.utils.parametrize.remove_parametrizations(module, "weight")`` leaves the standardized weight, gains
    multiplied in, for deployment; with ``leave_parametrized=False`` the learned one as it was before standardization.

    Args:
        module: a Linear or Conv1d to Conv3d, changed in place.
        name: of its weight.
        eps: added to the variance of each unit's weights, inside the root.
        gain: learn a factor for each output unit.
        scaled: divide by the root of the number of weights of a unit.

    Returns:
        The module.

    Raises:
        TypeError: for another kind of module. (The weights of a transposed convolution lie by input, not by output.)
        ValueError: for a name the module does not have, or a parameter that is not a matrix or kernel.

    When it helps: convolutional networks with GroupNorm and small batches, which it brings to BatchNorm's accuracy;
    with ``gain`` and ``scaled``, networks without norms. When it hurts: layers with few weights per unit, such as
    depthwise convolutions with small kernels; unscaled, layers without a norm behind them, whose outputs it makes
    sqrt(n) times too large. Makes weight decay on the layer pointless, as the length of the learned weight has no
    effect on the output.

    Source: Qiao, Wang, Liu, Shen, Yuille, "Micro-Batch Training with Batch-Channel Normalization and Weight
    Standardization", 2019; scaled and with gains: Brock, De, Smith, "Characterizing signal propagation to close the
    performance gap in unnormalized ResNets", 2021.

    >>> layer = weight_standardization(torch.nn.Conv2d(3, 8, 3))
    >>> layer.weight.mean((1, 2, 3)).abs().max() < 1e-6
    tensor(True)
    """
    if not isinstance(module, STANDARDIZED):
        raise TypeError(
            f"weight_standardization takes {', '.join(kind.__name__ for kind in STANDARDIZED)}, not "
            f"{type(module).__name__}. For a whole model apply it to each of model.modules() of these types."
        )
    check_eps("weight_standardization", eps)
    weight = _weight_of("weight_standardization", module, name)
    if weight.dim() < 2:
        raise ValueError(
            f"weight_standardization({type(module).__name__}, name={name!r}): this parameter has shape "
            f"{tuple(weight.shape)}. It must have a row of weights for each output unit: did you mean name='weight'?"
        )
    gains = torch.ones(weight.shape[0], dtype=weight.dtype, device=weight.device) if gain else None
    parametrize.register_parametrization(module, name, WeightStandardization(gains, eps, scaled=scaled))
    return module


def spectral_norm(
    module: nn.Module, name: str = "weight", n_power_iterations: int = 1, eps: float = 1e-12, dim: int | None = None
) -> nn.Module:
    r"""Spectral normalization: a layer uses its weight divided by its largest singular value.

    .. math:: \hat W = \frac{W}{\sigma(W)}, \qquad \sigma(W) = \max_{h \ne 0} \frac{\|W h\|_2}{\|h\|_2} \approx u^\top W v

    with W the weight as a matrix, one row for each entry of ``dim``, and u, v its leading singular vectors, followed by
    the power method: ``n_power_iterations`` steps whenever the weight is read while training. This is
    ``torch.nn.utils.parametrizations.spectral_norm`` with errors that say what to do. Learned is
    ``parametrizations.weight.original``; u and v are saved too.

    Args:
        module: the layer, changed in place.
        name: of its weight.
        n_power_iterations: at each reading; more follow a weight that moves fast.
        eps: keeps the lengths of u and v from 0.
        dim: along which the units lie; None: 1 for transposed convolutions, else 0.

    Returns:
        The module.

    Raises:
        ValueError: for a name the module does not have, a dim the weight does not have, and no iterations.

    When it helps: discriminators of adversarial networks, and wherever a layer must not stretch distances; attention
    that diverges. When it hurts: layers that need a gain above 1. Of a convolution it bounds the kernel as a matrix,
    not the operator, which can stretch by up to the root of the number of kernel positions.

    Source: Miyato, Kataoka, Koyama, Yoshida, "Spectral Normalization for Generative Adversarial Networks", 2018.

    >>> layer = spectral_norm(torch.nn.Linear(5, 5), n_power_iterations=50)
    >>> abs(torch.linalg.matrix_norm(layer.weight, 2) - 1) < 1e-2
    tensor(True)
    """
    weight = _weight_of("spectral_norm", module, name)
    check_number("spectral_norm", "eps", eps, "[0, inf)")
    if not isinstance(n_power_iterations, int) or n_power_iterations < 1:
        raise ValueError(
            f"spectral_norm(n_power_iterations={n_power_iterations}): it must be 1 or more, else the singular vectors "
            "never follow the weight."
        )
    if dim is not None and not (isinstance(dim, int) and -weight.dim() <= dim < weight.dim()):
        raise ValueError(
            f"spectral_norm({type(module).__name__}, dim={dim}): {name} has shape {tuple(weight.shape)}, so dim must "
            f"lie in [{-weight.dim()}, {weight.dim() - 1}], or be None."
        )
    return parametrizations.spectral_norm(module, name, n_power_iterations, eps, dim)
