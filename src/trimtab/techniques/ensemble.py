"""Ensembles in the place of one network: bagging and deep ensembles."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch._compile import _disable_dynamo  # torch.compiler.disable would import the compiler at once
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from trimtab.copies import copied_module
from trimtab.data import content_weights
from trimtab.nn.ensemble import OF, average_members
from trimtab.reading.answers import Form, find_answer, mark_answer
from trimtab.reading.losses import LOSSES
from trimtab.reading.order import CONV, LINEAR, NORM
from trimtab.reading.weights import trained
from trimtab.recipe import Change, LossCall, Suite, Technique, TrainingLike
from trimtab.techniques.engines.surgery import nothing_for, training_now
from trimtab.untouched import Draws


@dataclass(frozen=True)
class DeepEnsemble(Technique):
    """Trains several networks instead of one, each from its own initialization, and lets them answer together.

    ``y = mean of f(x; theta_k)`` over K members in evaluation: the mean of numbers, or the logits of the mean probabilities where the
    loss is one of logits (``cross_entropy``, ``binary_cross_entropy_with_logits``). The network of the script is member 0 and trains
    exactly as it would alone; so outputs and losses that the script sees in training are its own. The other
    members are copies, drawn anew by their layers' ``reset_parameters``; they join the optimizer, the ``state_dict`` (below the first
    layer) and copies of the model. Frozen parameters are the same in all members.

    The loss must be a function (or module) of torch on the model's output, or on a view, another type, ``log_softmax``, ``softmax`` or ``sigmoid``
    of it.

    Helps: accuracy and calibration of almost any network, most where trainings from other seeds disagree.
    Hurts: time and memory, by a factor of ``members``; pretrained weights that are trained further, since only member 0 has
    them; clipping by the norm of all gradients, which now come from all members. Good first setting: 4.

    Args:
        members: number of networks, at least 2.

    Source: Lakshminarayanan et al., "Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles", NeurIPS
    2017 (without its adversarial examples); :class:`trimtab.nn.Ensemble` for code of one's own.

    >>> import trimtab as tt
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> training = tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply("deep_ensemble(members=3)")
    >>> print(training.changes[0])
    2 more networks are trained beside the model; evaluation averages all 3
    """

    acts_on = "loss"  # after all changes to the model, so that every member has them
    moment = "members"
    takes = ("members",)
    group = "regularization"
    evaluates = True
    suite = Suite(always=True, same_losses="acts in evaluation")

    members: int = 4

    def __post_init__(self) -> None:
        _check(self, self.members)

    def apply(self, training: TrainingLike) -> Change:
        return _join(self, training, self.members, bootstrap=False)


@dataclass(frozen=True)
class Bagging(Technique):
    """Trains several networks, each on a bootstrap resample of the samples, and lets them answer together.

    As ``deep_ensemble``, but every member k weighs the loss of sample i by how often it drew the sample: ``w_ki ~ Poisson(1)``, the
    limit of drawing N out of N with replacement. A script does not say which sample is which, so the weight comes
    from a hash of the input itself, and a sample has the same weight in every epoch: a fixed bootstrap. Inputs
    that the script augments at random draw anew each time, and the bootstrap averages out. Member 0 is the network of the script.
    Samples are expected along the first dimension.

    Helps: networks that change much with the data they see: few samples, noisy targets. Hurts: each member misses 37% of the
    samples, which for networks often costs more than the resampling gives (try ``deep_ensemble`` too); time and memory by a
    factor of ``members``; pretrained weights; clipping by the norm of all gradients. Good first setting: 4, better 10.

    Args:
        members: number of networks, at least 2.

    Source: Breiman, "Bagging Predictors", Machine Learning 24, 1996; Oza and Russell, "Online Bagging and Boosting", AISTATS
    2001; :func:`trimtab.data.content_weights`.

    >>> import trimtab as tt
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> training = tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply("bagging(members=3)")
    >>> print(training.changes[0])
    2 more networks are trained beside the model, each of the 3 on its own bootstrap; evaluation averages all 3
    """

    acts_on = "loss"
    moment = "members"
    takes = ("members",)
    group = "regularization"
    evaluates = True
    suite = Suite(always=True)

    members: int = 4

    def __post_init__(self) -> None:
        _check(self, self.members)

    def apply(self, training: TrainingLike) -> Change:
        return _join(self, training, self.members, bootstrap=True)


def _check(technique: Technique, members: int) -> None:
    if not 2 <= members <= 1000:
        raise ValueError(
            f"members={members} must be a whole number of at least 2, and at most 1000: it is the number of networks, with the model."
        )


def _join(technique: Technique, training: TrainingLike, members: int, bootstrap: bool) -> Change:
    """Let further members train beside the model; what bagging and deep ensembles share."""
    heads = [head for head in training.heads if head not in training.models] or training.heads
    if len(heads) != 1:
        raise nothing_for(technique, f"it needs one model that is called, and {len(heads)} are trained here.")
    model = heads[0]
    if (
        torch.distributed.is_available()
        and torch.distributed.is_initialized()
        and torch.distributed.get_world_size() > 1
    ):
        raise nothing_for(
            technique, "several processes train, and the members' gradients would not be averaged over them."
        )
    learning = {name for name, _ in trained(training, model.named_parameters())}
    hosts = [(name, m) for name, m in model.named_modules() if isinstance(m, _HOSTS)]
    if not hosts:
        raise nothing_for(technique, "the model has no layer of torch that the members could hang on.")
    path, host = hosts[0]
    seed = training.generator(technique.name).initial_seed()
    networks, alike = [], []
    for number in range(1, members):
        try:
            network = copied_module(model)
        except ValueError as error:
            raise nothing_for(technique, f"{error}.") from None
        alike = _draw_anew(network, learning, seed + number)
        networks.append(network)
    if len(alike) == len(learning):
        raise nothing_for(technique, "the model has no layer whose parameters are trained and can be drawn anew.")

    child = "ensemble" if not hasattr(host, "ensemble") else "trimtab_ensemble"
    more = _Members(networks, next(model.parameters()).device)
    more.training = more.networks.training = host.training
    host.add_module(child, more)
    counterparts = dict(model.named_parameters())
    gather = _Gather(f"{path}.{child}".lstrip("."), members, seed, bootstrap)
    acted = False

    def losses(loss: LossCall) -> torch.Tensor | None:
        nonlocal acted
        value = gather.loss(model, loss)
        acted = acted or value is not None
        return value

    # Changes of losses bring in the gates that change inputs; the hook then comes before them and sees what the script gave.
    stop = training.change_loss(losses)
    handles = [
        model.register_forward_pre_hook(gather.before, prepend=True, with_kwargs=True),
        model.register_forward_hook(gather.after, prepend=True, with_kwargs=True),
    ]

    def undo() -> None:
        stop()
        for handle in handles:
            handle.remove()
        training.remove_parameters(more.parameters())
        del host._modules[child]

    try:
        for network in networks:
            for name, parameter in network.named_parameters():
                if name in learning:
                    training.add_parameters([parameter], beside=counterparts[name])
    except BaseException:
        undo()
        raise
    own = f", each of the {members} on its own bootstrap" if bootstrap else ""
    others = f"{members - 1} more network{'s are' if members > 2 else ' is'} trained beside the model"
    return Change(
        f"{others}{own}; evaluation averages all {members}",
        undo,
        lambda: acted,
        tuple(
            f"{name}: starts with the model's values in every member, since its layer cannot draw them anew"
            for name in alike
        ),
        lambda: "" if acted or not gather.passed else f"the members do not train, since {gather.passed}",
    )


# Layers whose forward does not look at what hangs on them; a child of an nn.Sequential would join the chain.
_HOSTS: tuple[type[nn.Module], ...] = (
    *LINEAR,
    *CONV,
    *NORM,
    nn.Embedding,
    nn.EmbeddingBag,
    nn.RNNBase,
    nn.RNNCellBase,
    nn.Bilinear,
)


class _Members(nn.Module):
    """The further networks of an ensemble, and in which form they answer."""

    form: (
        torch.Tensor
    )  # 1 + the place in OF, or 0 as long as nothing was learnt; and the dimension of classes from the end

    def __init__(self, networks: list[nn.Module], device: torch.device) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.register_buffer("form", torch.zeros(2, dtype=torch.long, device=device))


class _Gather:
    """Hooks of a root model that let its members run: beside it in training, and as one in evaluation.

    In a copy of the model the members answer together, but do not train.
    """

    def __init__(self, path: str, members: int, seed: int, bootstrap: bool) -> None:
        self.path, self.members, self.seed, self.bootstrap = path, members, seed, bootstrap
        self.live, self.calls = True, 0
        self.passed = ""  # why a loss was left alone
        self.weights: torch.Tensor | None = None
        self.form = (0, 0)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "live": False, "weights": None}

    @_disable_dynamo
    def before(self, model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        if self.live and self.bootstrap and training_now(model):
            x = _samples((*args, *kwargs.values()))
            self.weights = None if x is None else content_weights(x, self.members, self.seed)

    @_disable_dynamo
    def after(self, model: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> torch.Tensor | None:
        if not isinstance(output, torch.Tensor):
            self.passed = "the model does not give one tensor"
            return None
        members: Any = model.get_submodule(self.path)
        if training_now(model):
            if not self.live:
                return None
            # not a view, and packed: then a view of it can be repeated for the others
            output = output.clone() if output._is_view() else output.contiguous()
            others = [y.contiguous() for y in self._others(members, args, kwargs, output)]
            mark_answer(output, _KEY, _Answers(self, others, self.weights))
            return output
        kind, dim = members.form.tolist()
        if not kind:
            return None
        outputs = torch.stack([output, *self._others(members, args, kwargs, output)])
        return average_members(outputs, OF[kind - 1], dim)

    def _others(self, members: Any, args: tuple, kwargs: dict[str, Any], output: torch.Tensor) -> list[torch.Tensor]:
        self.calls += 1
        with _own_numbers(self.seed + (self.calls << 20), [output.device]):
            return [network(*args, **kwargs) for network in members.networks]

    def loss(self, model: nn.Module, loss: LossCall) -> torch.Tensor | None:
        """The sum of all members' losses in its gradient, and that of member 0 in its value."""
        said = loss.arguments.get("input")
        if not isinstance(said, torch.Tensor) or any(
            loss.arguments.get(old) is not None for old in ("reduce", "size_average")
        ):
            return None
        found = find_answer(said, _KEY)
        if found is None or found[0].gather is not self:
            self.passed = self.passed or "the loss is not computed from the model's output itself"
            return None
        answers, taken = found
        form = _form(loss.name, said, answers.others[0], taken)
        if form is None:
            return None
        others = [taken.of(other) for other in answers.others]
        if self.bootstrap:
            if answers.weights is None or not _can_weigh(loss):
                return None
            each = [_weighted(loss, y, w) for y, w in zip([said, *others], answers.weights, strict=True)]
            values = [value for value in each if value is not None]
            if len(values) < len(each):
                return None
        else:
            values = [loss(), *(loss(input=y) for y in others)]
        if form > self.form:
            self.form = form
            members: Any = model.get_submodule(self.path)
            members.form.copy_(torch.tensor(form))
        rest = torch.stack(values[1:]).sum(0)
        return values[0] + (rest - rest.detach())


_KEY = "trimtab members"


@dataclass(frozen=True)
class _Answers:
    """What the other members said in one forward pass, and how often each member drew the samples."""

    gather: _Gather
    others: list[torch.Tensor]
    weights: torch.Tensor | None


def _form(loss: str, said: torch.Tensor, answer: torch.Tensor, taken: Form) -> tuple[int, int] | None:
    """In which form the model answers, as its place in OF, and which dimension its classes have, counted from the end."""
    place = 1 if said.ndim > 1 else 0
    of = LOSSES[loss].output if LOSSES[loss].output in OF else "values"
    if taken.function in ("softmax", "log_softmax"):
        of, place = "logits", taken.argument
    elif taken.function == "sigmoid":
        of = "binary_logits"
    elif taken.view is not None and of == "logits":
        size, stride, _ = taken.view
        fitting = [d for d in range(answer.ndim) if (answer.size(d), answer.stride(d)) == (size[place], stride[place])]
        if not fitting:
            return None
        place = fitting[-1]
    return OF.index(of) + 1, (place if place < 0 else place - answer.ndim) if of == "logits" else 0


def _can_weigh(loss: LossCall) -> bool:
    """Whether we know what the loss divides by when it takes the mean."""
    return loss.arguments.get("weight") is None or LOSSES[loss.name].likelihood or loss.name == "binary_cross_entropy"


def _weighted(loss: LossCall, said: torch.Tensor, weights: torch.Tensor) -> torch.Tensor | None:
    """The loss with a weight for each sample; with weights of 1 it is the loss. ``None`` if samples do not come first."""
    each = loss(input=said, reduction="none")
    if each.ndim == 0 or not len(weights) or len(each) % len(weights):
        return None
    # a loss on (N T, ...) out of (N, T, ...) has T entries in a row for each sample
    each = each * weights.repeat_interleave(len(each) // len(weights)).view(-1, *[1] * (each.ndim - 1)).to(each.dtype)
    reduction = loss.arguments.get("reduction", "mean")
    if reduction == "none":
        return each
    total = each.sum()
    if reduction == "sum":
        return total
    if reduction == "batchmean":
        return total / len(each)
    target, classes = loss.target, loss.arguments.get("weight")
    if LOSSES[loss.name].likelihood and not target.is_floating_point():
        counted = target[target != loss.arguments.get("ignore_index", -100)]
        return total / (counted.numel() if classes is None else classes[counted].sum())
    return total / each.numel()


def _samples(values: Iterable[Any]) -> torch.Tensor | None:
    """The first floating-point tensor among the inputs, or the first tensor."""
    tensors = [value for value in values if isinstance(value, torch.Tensor) and value.ndim]
    return next((x for x in tensors if x.is_floating_point()), tensors[0] if tensors else None)


def _draw_anew(network: nn.Module, learning: set[str], seed: int) -> list[str]:
    """Draw the trained parameters of a copy anew, and give the names of those that keep their values."""
    drawn: set[str] = set()
    with _own_numbers(seed, [p.device for p in network.parameters()]):
        for number, (path, module) in enumerate(reversed(list(network.named_modules()))):  # a parent has the last word
            own_source = vars(module).get("generator")
            if isinstance(own_source, torch.Generator):
                own_source.manual_seed(seed + (number << 20))
            own = {".".join(filter(None, (path, name))) for name, _ in module.named_parameters(recurse=False)}
            reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
            if own and own <= learning and callable(reset) and not parametrize.is_parametrized(module):
                reset()
                _into_sources(module)
                drawn |= own
    return sorted(learning - drawn)


@torch.no_grad()
def _into_sources(module: nn.Module) -> None:
    """Weights that a hook computes were drawn as values: let what they are computed from give them."""
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm):
            weight = getattr(module, hook.name)
            module._parameters[f"{hook.name}_v"].copy_(weight)  # type: ignore[union-attr]
            module._parameters[f"{hook.name}_g"].copy_(torch.norm_except_dim(weight, 2, hook.dim))  # type: ignore[union-attr]
        elif isinstance(hook, (SpectralNorm, BasePruningMethod)):
            name = hook.name if isinstance(hook, SpectralNorm) else hook._tensor_name
            module._parameters[f"{name}_orig"].copy_(getattr(module, name))  # type: ignore[union-attr]


@contextlib.contextmanager
def _own_numbers(seed: int, devices: Iterable[torch.device]) -> Iterator[None]:
    """Random numbers of a seed; those of the training go on afterwards where they were."""
    cuda = sorted({device.index or 0 for device in devices if device.type == "cuda"})
    with Draws():
        random.seed(seed)
        np.random.seed(seed % 2**32)
        for generator in (torch.default_generator, *(torch.cuda.default_generators[index] for index in cuda)):
            generator.manual_seed(seed)
        yield
