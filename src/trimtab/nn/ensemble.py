"""Ensembles that are trained as one network."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.func import functional_call, stack_module_state, vmap
from torch.utils._pytree import tree_map

from trimtab.copies import copied_module
from trimtab.nn.checks import check_count

GROUP = "regularization"
OF = ("values", "logits", "log_probabilities", "binary_logits")


def average_members(outputs: torch.Tensor, of: str = "values", dim: int = 1) -> torch.Tensor:
    r"""The answer of an ensemble: the mean of what its members say, in the form in which they say it.

    .. math:: \bar y = \frac1K \sum_k y_k \quad\text{(values)}, \qquad
              \bar y = \log \frac1K \sum_k \mathrm{softmax}(y_k) \quad\text{(logits)}

    with ``outputs`` of shape ``(K, N, ...)`` for K members, and a result of shape ``(N, ...)``. Logits and log-probabilities are averaged as
    the probabilities they stand for, so that ``cross_entropy`` and ``argmax`` of the result are those of the mean probabilities.

    Args:
        outputs: stacked along the first dimension.
        of: "values" (numbers or probabilities), "logits" of classes, "log_probabilities", or "binary_logits" (each number the
            log-odds of one event).
        dim: the dimension of one member's output that holds the classes; only logits need it.

    Raises:
        ValueError: for an unknown ``of``.

    When it helps: regression, and classification wherever the confidence matters. When it hurts: members that are wrong with
    great confidence outvote the others (use :func:`vote`).

    Source: Breiman, "Bagging Predictors", Machine Learning 24, 1996; Lakshminarayanan et al., "Simple and Scalable
    Predictive Uncertainty Estimation using Deep Ensembles", NeurIPS 2017.

    >>> average_members(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    tensor([2., 3.])
    """
    if of not in OF:
        raise ValueError(f"average_members(of={of!r}): of must be one of {', '.join(map(repr, OF))}.")
    if of == "values":
        return outputs.mean(0)
    log_members = math.log(len(outputs))
    if of == "logits":
        outputs = outputs.log_softmax(dim if dim < 0 else dim + 1)
    if of != "binary_logits":
        return outputs.logsumexp(0) - log_members
    sigmoid = nn.functional.logsigmoid
    return sigmoid(outputs).logsumexp(0) - sigmoid(-outputs).logsumexp(0)


def vote(outputs: torch.Tensor, dim: int = 1) -> torch.Tensor:
    r"""The class that most members of an ensemble choose; of several, the first.

    .. math:: \hat y = \arg\max_c \sum_k [\arg\max_j y_{kj} = c]

    with ``outputs`` of shape ``(K, N, C)`` or ``(K, N, C, ...)`` (logits or probabilities of C classes) and a result of shape
    ``(N,)`` or ``(N, ...)``.

    Args:
        outputs: stacked along the first dimension.
        dim: the dimension of one member's output that holds the classes.

    When it helps: classification by members whose confidence means little. When it hurts: few members, since ties are then
    frequent; :func:`average_members` of logits uses more of what they know.

    Source: Breiman, "Bagging Predictors", Machine Learning 24, 1996.

    >>> vote(torch.tensor([[[0.9, 0.1]], [[0.4, 0.6]], [[0.4, 0.6]]]))
    tensor([1])
    """
    dim = dim if dim < 0 else dim + 1
    choices = outputs.argmax(dim, keepdim=True)
    return torch.zeros_like(outputs).scatter_(dim, choices, 1.0).sum(0).argmax(dim if dim < 0 else dim - 1)


def member_losses(
    loss: Callable[..., torch.Tensor],
    outputs: torch.Tensor,
    target: torch.Tensor,
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    r"""The loss of every member of an ensemble on the same targets; their sum trains each as if it were alone.

    .. math:: L_k = \frac1N \sum_{i=1}^N w_{ki} \, \ell(y_{ki}, t_i)

    with ``outputs`` of shape ``(K, N, ...)``, ``target`` whatever the loss takes for N samples, and a result of shape ``(K,)``. With the counts of
    a bootstrap as weights (:func:`trimtab.data.bootstrap_weights`), L_k is the mean loss over member k's resample.

    Args:
        loss: a function of ``torch.nn.functional`` such as ``F.cross_entropy``, or another that takes ``reduction="none"``.
        outputs: what the members said.
        target: what they should have said.
        weights: of shape ``(K, N)``; ones if ``None``.

    Raises:
        ValueError: if the weights have another shape.

    >>> outputs = torch.tensor([[1.0, 2.0], [3.0, 3.0]])
    >>> member_losses(nn.functional.mse_loss, outputs, torch.tensor([1.0, 1.0]))
    tensor([0.5000, 4.0000])
    """
    members, samples = outputs.shape[:2]
    if weights is not None and weights.shape != (members, samples):
        raise ValueError(
            f"member_losses got outputs of {members} members on {samples} samples and weights of shape {tuple(weights.shape)}. "
            f"Their shape must be {(members, samples)}; for a batch of a data set give weights[:, rows]."
        )
    every = target.expand(members, *target.shape).flatten(0, 1)
    each = loss(outputs.flatten(0, 1), every, reduction="none").reshape(members, samples, -1).mean(2)
    return (each if weights is None else each * weights).mean(1)


class Ensemble(nn.Module):
    r"""Several networks of one form, run and trained in one pass.

    .. math:: y_k = f(x; \theta_k), \qquad k = 1 \dots K

    with ``x`` of shape ``(N, ...)`` for all members, or ``(K, N, ...)`` with a batch for each, and ``y`` of shape ``(K, N, ...)``.
    Parameters and buffers are those of the members stacked along a new first dimension, under their own names below ``stacked``.
    One matrix product then serves all members, which for small networks is several times faster than one after another.

    An optimizer of torch that treats every entry by itself (SGD, Adam) trains the sum of :func:`member_losses` to the same
    numbers as it would each member alone, up to rounding. What looks at a whole tensor or model (clipping by the global norm, LARS) sees
    all members at once. Each member draws random numbers (dropout) of its own. Where ``torch.func.vmap`` cannot run the
    members together (numbers that decide in Python, recurrent layers), they run one after another, and a warning says so.

    Args:
        make: a function that makes one member, or a list of members.
        members: how many to make; a list brings its own number.

    Raises:
        TypeError: for a module in the place of a function that makes one.
        ValueError: for no members, and for members that differ in more than their numbers.

    When it helps: networks that vary much from one training to the next, uncertainty, tables of few samples.
    When it hurts: memory and time grow with the members; large networks keep a processor busy one by one, and gain no speed.

    Source: Breiman, "Bagging Predictors", Machine Learning 24, 1996; Lakshminarayanan et al., "Deep Ensembles", NeurIPS 2017.

    >>> ensemble = Ensemble(lambda: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), members=5)
    >>> ensemble(torch.randn(2, 4)).shape
    torch.Size([5, 2, 3])
    >>> ensemble.members()[0]
    Sequential(
      (0): Linear(in_features=4, out_features=8, bias=True)
      (1): ReLU()
      (2): Linear(in_features=8, out_features=3, bias=True)
    )
    """

    def __init__(self, make: Callable[[], nn.Module] | Iterable[nn.Module], members: int = 16) -> None:
        super().__init__()
        if isinstance(make, nn.Module) and not isinstance(make, nn.ModuleList):
            raise TypeError(
                f"Ensemble got a {type(make).__name__}, which is one member. Give a function that makes one, "
                f"Ensemble(lambda: {type(make).__name__}(...), members={members}), or a list of members."
            )
        if callable(make):
            check_count("Ensemble", "members", members, 0)
        modules = [make() for _ in range(members)] if callable(make) else list(make)
        _check(modules)
        parameters, buffers = stack_module_state(modules)
        memo: dict[int, Any] = {}
        for name, parameter in modules[0].named_parameters():
            stacked = nn.Parameter(parameters[name].detach(), requires_grad=parameter.requires_grad)
            memo[id(parameter)] = stacked
        for name, buffer in modules[0].named_buffers():
            memo[id(buffer)] = buffers[name]
        self.stacked = copied_module(modules[0], memo)
        self.one_by_one = ""

    def __len__(self) -> int:
        return len(next(self.stacked.parameters()))

    def forward(self, *inputs: Any, per_member: bool = False) -> Any:
        """What every member says; with ``per_member``, member k to ``input[k]``."""
        if per_member and any(len(x) != len(self) for x in inputs):
            raise ValueError(
                f"An Ensemble of {len(self)} members got inputs of shapes {', '.join(str(tuple(x.shape)) for x in inputs)}. With "
                f"per_member=True their first dimension must be {len(self)}, a batch for each member."
            )
        if self.one_by_one:
            return self._each(inputs, per_member)
        before = [buffer.clone() for buffer in self.stacked.buffers()] if self.training else []
        try:
            return self._together(inputs, per_member)
        except Exception as error:
            for buffer, value in zip(self.stacked.buffers(), before, strict=False):
                buffer.copy_(value)
            outputs = self._each(inputs, per_member)  # raises what is not the fault of vmap
            self.one_by_one = str(error)
        warnings.warn(
            f"The {len(self)} members of an Ensemble of {type(self.stacked).__name__} run one after another, since "
            f"torch.func.vmap cannot run them together: {self.one_by_one}",
            stacklevel=2,
        )
        return outputs

    def _together(self, inputs: tuple[Any, ...], per_member: bool) -> Any:
        buffers = dict(self.stacked.named_buffers())

        def call(parameters: dict, buffers: dict, inputs: tuple[Any, ...]) -> tuple[Any, dict]:
            state = {**parameters, **buffers}
            output = functional_call(self.stacked, state, inputs)
            return output, {name: state[name] for name in buffers}

        computed = [
            (m, name, value)
            for m in self.stacked.modules()
            for name, value in vars(m).items()
            if isinstance(value, torch.Tensor)
        ]
        run = vmap(call, in_dims=(0, 0, 0 if per_member else None), randomness="different")
        outputs, after = run(dict(self.stacked.named_parameters()), buffers, inputs)
        for module, name, value in computed:  # by hooks, for the call alone: nothing of vmap is to stay
            setattr(module, name, value)
        for name, value in after.items():
            if value.data_ptr() != buffers[name].data_ptr():  # set anew, and not changed in place
                buffers[name].copy_(value)
        return outputs

    def _each(self, inputs: tuple[Any, ...], per_member: bool) -> Any:
        parameters, buffers = dict(self.stacked.named_parameters()), dict(self.stacked.named_buffers())
        outputs = []
        for member in range(len(self)):
            state = {name: value[member] for name, value in (parameters | buffers).items()}
            outputs.append(
                functional_call(self.stacked, state, tuple(x[member] for x in inputs) if per_member else inputs)
            )
            for name, value in buffers.items():
                if state[name].data_ptr() != value[member].data_ptr():
                    value[member].copy_(state[name])
        return tree_map(lambda *one: torch.stack(one), *outputs)

    def members(self) -> list[nn.Module]:
        """The members as ordinary modules, with copies of their numbers."""
        made = []
        for member in range(len(self)):
            memo: dict[int, Any] = {
                id(p): nn.Parameter(p[member].detach().clone(), p.requires_grad) for p in self.stacked.parameters()
            }
            memo |= {id(buffer): buffer[member].clone() for buffer in self.stacked.buffers()}
            made.append(copied_module(self.stacked, memo))
        return made

    def extra_repr(self) -> str:
        return f"members={len(self)}"


def _check(modules: list[nn.Module]) -> None:
    """Refuse members that cannot be stacked."""
    if not modules:
        raise ValueError("Ensemble got no members; it needs at least one.")
    if len({id(module) for module in modules}) < len(modules):
        raise ValueError(
            "Ensemble got the same module several times. Every member must be a module of its own: make it anew, or copy.deepcopy it."
        )
    if not any(True for _ in modules[0].parameters()):
        raise ValueError(f"Ensemble got members of type {type(modules[0]).__name__} without parameters.")
    if any(isinstance(p, nn.UninitializedParameter) for module in modules for p in module.parameters()):
        raise ValueError(
            "Ensemble got members with lazy layers; call each once with an input, so that its shapes are known."
        )
    first = _form(modules[0])
    for number, module in enumerate(modules[1:], 1):
        if _form(module) != first:
            differing = sorted(map(str, set(_form(module).items()) ^ set(first.items())))[0]
            raise ValueError(
                f"The members of an Ensemble must agree in everything but their numbers; member {number} differs from member 0, "
                f"for instance in {differing}."
            )


def _form(module: nn.Module) -> dict[str, Any]:
    """What must be the same in all members: classes, and shapes and types of tensors."""
    form: dict[str, Any] = {name: type(part).__name__ for name, part in module.named_modules()}
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        form[name] = (tuple(tensor.shape), tensor.dtype, tensor.device, tensor.requires_grad)
    return form
