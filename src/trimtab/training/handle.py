"""The live handle on a training in progress."""

from __future__ import annotations

import contextlib
import functools
import threading
import weakref
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.utils import parametrize

from trimtab.reading.optimizers import refusal
from trimtab.recipe import Change, Event, NothingToDo, Now, Recipe, Technique
from trimtab.records import CodePlace, Flow, front_door
from trimtab.structure import parts, size, weights
from trimtab.training import twins
from trimtab.training.evaluations import PlaceNames
from trimtab.training.find import unwrap
from trimtab.training.gates import Gates
from trimtab.training.rates import Factor, Opened, Rates
from trimtab.training.safe import theirs
from trimtab.training.stage import stage
from trimtab.training.steps import Backward, Member
from trimtab.training.taps import uncompiled


class Training(Gates):
    """A training in progress: its models, its optimizers, the step it is at, and the events it passes through.

    Made by :func:`trimtab.attach` in code of your own, and by the script runner for every model that an unmodified script
    trains. A *step* is one update: one or more calls of ``backward`` (gradient accumulation) and the ``optimizer.step()``
    that uses them; several optimizers stepping after the same ``backward`` make one step; a closure (LBFGS) makes one.
    The training *loss* of a step is the sum of the values that ``backward`` started from, unscaled where a
    ``GradScaler`` scaled them: the number whose gradient the step applies. With a closure it is that of its first call.

    Events, for :meth:`on`: ``"backward"`` (gradients are about to be computed; no argument), ``"gradients"`` (all gradients
    that an optimizer is going to use are there), ``"before_step"``, ``"after_step"`` (each called with the optimizer),
    ``"step"`` (a step was made; called with its loss or ``None``), ``"forward"`` (the model is going to be called, in training or
    evaluation; called with the model), and ``"evaluation"`` (a number judged the training as it stands now, before the next
    update; called with its name, such as ``"val loss"``, and the number).
    """

    def __init__(self, models: Sequence[nn.Module], optimizers: Sequence[torch.optim.Optimizer]) -> None:
        super().__init__(tuple(unwrap(model) for model in models))
        self.step = 0
        self.thread = threading.get_ident()  # the one that trains it, as far as is known
        self.changes: list[Change] = []
        self._recipes: list[Recipe] = []  # that were applied, or wait for another optimizer
        self._names: list[set[str]] = []  # of the weights, before techniques have changed the models
        self.code: CodePlace | None = None  # where its optimizers are made
        self.kept: list[object] = []  # what lives at least as long as the handle
        self.members: list[Member] = []
        self._events: dict[str, list[Callable[..., None]]] = {}
        self._losses: list[Backward] = []
        self._stepped: set[int] | None = None  # the optimizers that took part in the last step
        self.seen: Flow | None = None  # what goes where in the models, if a forward pass of theirs was recorded before
        self.read: dict[int, Any] = {}  # the order of the layers of each model, as long as it is made of the same
        self.labels = PlaceNames()  # of the places where it is evaluated
        self._generators = 0
        self._marked: list[nn.Module] = []
        self._rates = Rates(stage.own(Opened))
        for optimizer in optimizers:
            self.join(optimizer)
        stage.enter(self)

    # -- what is there -----------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        parts = [type(one).__name__ for one in (*self.models, *self.optimizers)]
        changes = f", changed: {'; '.join(change.sentence for change in self.changes)}" if self.changes else ""
        return f"<Training of {', '.join(parts)}, at step {self.step}{changes}>"

    @property
    def model(self) -> nn.Module | None:
        """The model; the largest where several are trained together; ``None`` for parameters outside any module."""
        return max(self.models, key=size, default=None)

    @property
    def optimizers(self) -> list[torch.optim.Optimizer]:
        """The optimizers that are still in use. A script may replace its optimizer: the handle keeps no old one alive."""
        alive = (member.optimizer() for member in self.members)
        return [optimizer for optimizer in alive if optimizer is not None]

    @property
    def phase(self) -> Literal["train", "eval"]:
        """``"train"`` while the model is in training mode and gradients are recorded."""
        return "train" if torch.is_grad_enabled() and any(model.training for model in self.models) else "eval"

    @property
    def loss(self) -> torch.Tensor | None:
        """The loss of the update that is being made, from its gradients on until it is made; ``None`` in between, and if unknown.

        Of several optimizers that step after the same ``backward``, the first makes the update.
        """
        values = [call.value for call in self._losses if call.value is not None]
        return sum(values[1:], start=values[0]) if values else None

    def named_modules(self) -> Iterator[tuple[str, nn.Module]]:
        """All modules with their names; with several models, prefixed by the model's class (and number)."""
        for prefix, model in self._prefixed():
            for name, module in parts(model):
                yield ".".join(filter(None, (prefix, name))), module

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """All parameters of the models, then optimized tensors that belong to no module."""
        known = set()
        for prefix, model in self._prefixed():
            for name, parameter in weights(model):
                known.add(id(parameter))
                yield ".".join(filter(None, (prefix, name))), parameter
        loose = [p for o in self.optimizers for g in o.param_groups for p in g["params"] if id(p) not in known]
        for number, parameter in enumerate(loose):
            yield f"parameter{number}", parameter

    def _prefixed(self) -> Iterator[tuple[str, nn.Module]]:
        if len(self.models) == 1:
            yield "", self.models[0]
            return
        names = [type(model).__name__.lower() for model in self.models]
        for number, (name, model) in enumerate(zip(names, self.models, strict=True)):
            yield (f"{name}{number}" if names.count(name) > 1 else name), model

    # -- events ------------------------------------------------------------------------------------------------------

    def on(
        self, event: Event | Literal["backward", "step", "predictions"], call: Callable[..., None]
    ) -> Callable[[], None]:
        """Call ``call(...)`` at every such event; the returned function ends it."""
        self._events.setdefault(event, []).append(call)
        stage.settle()
        mine = weakref.ref(self)  # who keeps the end of it keeps neither this nor the models

        def stop() -> None:
            if (training := mine()) is not None and call in training._events.get(event, []):
                training._events[event].remove(call)
                stage.settle()

        return self.gated(stop) if event == "forward" else stop

    def listens_to(self, event: str) -> bool:
        """Whether somebody hears of such events."""
        return bool(self._events.get(event))

    def emit(self, event: str, *what: Any) -> None:
        calls = self._events.get(event)
        if calls:
            with theirs():
                for call in tuple(calls):
                    call(*what)

    def evaluated(self, name: str, value: float) -> None:
        """Tell of a number that judges the training as it stands, such as ``("val accuracy", 0.91)``.

        Losses that are evaluated without gradients, their accuracies, and what a watched script prints are told without it.
        """
        self.emit("evaluation", name, value)

    def join(self, optimizer: torch.optim.Optimizer) -> None:
        """Let another optimizer take part in this training. Before the first step, what was applied is applied anew: it now speaks of
        all that is trained."""
        if any(known is optimizer for known in self.optimizers):
            return
        self.members = [member for member in self.members if member.optimizer() is not None]
        # The hooks keep the handle alive as long as the optimizer.
        before, after = _Hook(self._before_step), _Hook(self._after_step)
        hooks = optimizer.register_step_pre_hook(before), optimizer.register_step_post_hook(after)
        self.members.append(Member(optimizer, hooks))
        if self._recipes and self.step == 0 and self._stepped is None:
            self._apply_anew()

    def _apply_anew(self) -> None:
        applied, newest = len(self.changes), self.members[-1]
        for members in (self.members, self.members[:-1]):  # what refuses the new optimizer stays with the others
            recipes = self._recipes
            self.undo()
            self.members, self._generators = members, 0
            for recipe in recipes:
                with contextlib.suppress(NothingToDo):
                    self.apply(recipe)
            if len(self.changes) >= applied:
                break
        if newest not in self.members:
            self.members.append(newest)

    @property
    def tells(self) -> bool:
        """Whether parts of the model that techniques have put there need to know what is an evaluation."""
        return bool(self._names)

    def _member(self, optimizer: torch.optim.Optimizer) -> Member:
        return next(member for member in self.members if member.optimizer() is optimizer)

    def _before_step(
        self, optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict[str, Any]
    ) -> tuple[tuple, dict] | None:
        place = len(args) > 1  # args[0] is the optimizer
        closure = args[1] if place else kwargs.get("closure")
        self.thread = threading.get_ident()
        stage.begin_step()
        self._rates.enter(optimizer)
        if not callable(closure) or isinstance(closure, (nn.Module, type)):
            self._use(optimizer)
            self.emit("gradients", optimizer)
            self.emit("before_step", optimizer)
            return None
        self.emit("before_step", optimizer)
        calls = 0

        @functools.wraps(closure)
        def watched(*given: Any, **named: Any) -> Any:
            nonlocal calls
            with stage.taps.true_values():  # the optimizer compares them: they must be those of the gradient
                result = closure(*given, **named)
            with stage.taps.ours():
                if calls == 0:
                    self._use(optimizer)
                else:  # the optimizer tries other points: not the loss of this step
                    self._member(optimizer).take()
                calls += 1
                self.emit("gradients", optimizer)
            return result

        return ((args[0], watched, *args[2:]), kwargs) if place else (args, {**kwargs, "closure": watched})

    def change_rate(self, call: Factor) -> Callable[[], None]:
        """Multiply the learning rates of an optimizer by ``call(optimizer)`` for the duration of each step.

        Around the step its groups show what the script has set. Several such calls multiply; all listeners of ``"gradients"``,
        ``"before_step"`` and ``"after_step"`` see the rate that is really used. The returned function ends it.
        """
        return self._rates.scale(call)

    def rates(self) -> list[float]:
        """The learning rate of every group of every optimizer, with all that changes it: of the step that is happening, or the next."""
        return [rate for optimizer in self.optimizers for rate in self._rates.now(optimizer)]

    def _use(self, optimizer: torch.optim.Optimizer) -> None:
        """The gradients that are there now are those of the step."""
        fresh = [call for call in self._member(optimizer).take() if self not in call.counted]
        for call in fresh:
            call.counted.add(self)
        self._losses += fresh

    def _after_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        try:
            self._made_step(optimizer)
        finally:
            self._rates.leave(optimizer)

    def _made_step(self, optimizer: torch.optim.Optimizer) -> None:
        stage.stepped = self
        self._uses.step()
        self.emit("after_step", optimizer)
        if not self._losses:
            # Another optimizer after the same backward, or gradients that were set by hand?
            joins = self._stepped is not None and id(optimizer) not in self._stepped
            if joins or all(p.grad is None for p in self._member(optimizer).parameters()):
                if self._stepped is not None:
                    self._stepped.add(id(optimizer))
                return
        loss = self.loss
        self._losses, self._stepped = [], {id(optimizer)}
        self.emit("step", loss)
        self.step += 1

    @property
    def new_weights(self) -> tuple[str, ...]:
        """What the models hold in ``state_dict()`` beyond what they held before techniques have changed them."""
        pairs = zip(self.models, self._names, strict=False)
        return tuple(name for model, before in pairs for name in model.state_dict() if name not in before)

    @property
    def changes_rates(self) -> bool:
        """Whether the rates that are used are others than those that the optimizers show."""
        return self._rates.any

    def watch(self, **options: Any) -> Any:
        """Begin to record this training: ``with tt.attach(model, optimizer).watch() as recorder: ...``.

        The recorder's ``close()`` ends it and gives the :class:`~trimtab.records.RunRecord` that :func:`trimtab.diagnose` reads.
        Options are those of :class:`trimtab.Recorder` (``store=``, ``every=`` ...).
        """
        return front_door().Recorder.of(self, **options)

    def close(self) -> None:
        """The training is over: what was applied stays as it is, nothing is listened to or changed any more.

        The end of ``with tt.attach(model, optimizer) as training:`` does it, too. A training that is not closed ends with its optimizers.
        """
        self.end_changes()
        for member in self.members:
            for hook in member.hooks:
                hook.remove()
        self.members, self._events = [], {}
        stage.leave(self)

    def __enter__(self) -> Training:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- techniques --------------------------------------------------------------------------------------------------

    def apply(self, what: str | Technique | Recipe | Iterable[Technique]) -> Training:
        """Apply a recipe in place: ``training.apply("batch_norm(after='linear'), clip_norm(1.0)")``.

        Parameters keep their identity and their optimizer state; new parameters join the optimizer. :meth:`undo` takes
        everything back. Without an optimizer nothing is trained: only what stays in the model is applied.

        Raises :class:`~trimtab.recipe.RecipeError` for a text that does not read and :class:`~trimtab.recipe.NothingToDo` when a
        technique finds nothing to act on; then nothing is changed, unless another optimizer joins before the first step and it then does.
        """
        recipe = Recipe.of(what)
        if not self.members and self.models:
            recipe = _without_training(recipe)
        if any(isinstance(part, torch.jit.ScriptModule) for model in self.models for _, part in parts(model)):
            for technique in recipe:
                if technique.acts_on in ("model", "loss", "data"):
                    raise NothingToDo(
                        f"{technique}: TorchScript has compiled the model, and nothing can be put into it."
                    )
        self._recipes.append(recipe)
        held = stage.treated.revert(self.models)
        names = self._names or [set(model.state_dict()) for model in self.models]
        try:
            with _at_rest(self.models):
                self.changes += recipe.apply(self)
        finally:
            twins.restore(held)
        if any(twins.treated(model, before) for model, before in zip(self.models, names, strict=True)):
            self._names = names
            stage.treated.add(self.models, names)
        self._mark()
        stage.settle()
        return self

    def undo(self) -> Training:
        """Take back everything that :meth:`apply` changed, newest first."""
        while self.changes:
            self.changes.pop().undo()
        self._recipes, self._names = [], []
        self._mark()
        stage.treated.discard(self.models)
        stage.settle()
        return self

    def _mark(self) -> None:
        """Let all modules of treated models know what goes on, and those that are treated no more forget it."""
        for part in self._marked:
            part.__dict__.pop(Now.KEY, None)
        self._marked = []
        for one in stage.alive():
            one.mark()

    def mark(self) -> None:
        """Let all modules of the models know what goes on, if techniques have put something into them."""
        if self.tells:
            self._marked = [part for _, part in self.named_modules()]
            for part in self._marked:
                part.__dict__[Now.KEY] = stage.now

    def add_parameters(self, parameters: Iterable[nn.Parameter], beside: nn.Parameter | None) -> None:
        """Give new parameters to the optimizer, in the group of ``beside`` (the parameter of the layer they follow).

        They join an existing group, so that learning-rate schedulers made earlier stay right.
        """
        if not self.members and self.models:
            return
        optimizer, group = self._group_of(beside)
        new = list(parameters)
        if why := refusal(optimizer, new):
            raise NothingToDo(why)
        group["params"].extend(new)
        if "param_names" in group:
            names = {id(p): name for name, p in self.named_parameters()}
            group["param_names"].extend(names.get(id(p), "") for p in new)
        _begin_anew(optimizer)

    def remove_parameters(self, parameters: Iterable[nn.Parameter]) -> Callable[[], None]:
        """Take parameters and their state out of the optimizers; the returned function puts both back where they were."""
        gone = {id(parameter) for parameter in parameters}
        held: list[tuple[weakref.ref[torch.optim.Optimizer], int, int, dict[str, Any]]] = []
        states: list[tuple[weakref.ref[torch.optim.Optimizer], torch.Tensor, Any]] = []
        for optimizer in self.optimizers:
            mine, many = weakref.ref(optimizer), len(held)
            for number, group in enumerate(optimizer.param_groups):
                lists = {key: group[key] for key in ("params", "param_names") if key in group}
                places = [place for place, p in enumerate(group["params"]) if id(p) in gone]
                held += [(mine, number, place, {key: one[place] for key, one in lists.items()}) for place in places]
                for one in lists.values():  # in place: LBFGS and others keep this very list
                    one[:] = [entry for place, entry in enumerate(one) if place not in places]
            states += [(mine, p, optimizer.state.pop(p)) for p in list(optimizer.state) if id(p) in gone]
            if len(held) > many:
                _begin_anew(optimizer)

        def put_back() -> None:
            for reference, number, place, entries in held:  # in ascending order, so that each finds its place
                if (optimizer := reference()) is not None:
                    for key, entry in entries.items():
                        optimizer.param_groups[number].setdefault(key, []).insert(place, entry)
                    _begin_anew(optimizer)
            for reference, parameter, state in states:
                if (optimizer := reference()) is not None:
                    optimizer.state[parameter] = state

        return put_back

    def _group_of(self, parameter: nn.Parameter | None) -> tuple[torch.optim.Optimizer, dict[str, Any]]:
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                if any(p is parameter for p in group["params"]):
                    return optimizer, group
        return self.optimizers[0], self.optimizers[0].param_groups[0]

    def generator(self, purpose: str, device: torch.device | None = None) -> torch.Generator:
        """A random generator of its own for a technique.

        It is seeded from the seed of torch's generator without drawing from it, so that a technique leaves the data
        order and the initialization of the training as they were.
        """
        self._generators += 1
        seed = zlib.crc32(f"{torch.initial_seed()} {purpose} {self._generators}".encode())
        return torch.Generator(device or "cpu").manual_seed(seed)


def _begin_anew(optimizer: torch.optim.Optimizer) -> None:
    """Let LBFGS, and what is made like it, forget what it knows of all parameters in a row: there are others now."""
    if hasattr(optimizer, "_numel_cache"):
        optimizer._numel_cache = None
        optimizer._params = optimizer.param_groups[0]["params"]  # type: ignore[attr-defined]
        optimizer.state.clear()


def attach(
    model: nn.Module | Sequence[nn.Module],
    optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer] | None = None,
) -> Training:
    """A live handle on a training of your own: ``tt.attach(model, optimizer).apply("batch_norm(after='linear')")``.

    Call it once, after the optimizer is made and before the first step. The handle stays alive with the optimizer.

    Where a treated model is loaded and not trained, there is no optimizer: ``tt.attach(model).apply("batch_norm")`` before
    ``model.load_state_dict(...)`` makes it what was saved.

    Args:
        model: the model, or several that are trained together.
        optimizer: its optimizer, or several; ``None`` for a model that is not trained.

    Raises:
        TypeError: if these are not modules and optimizers.

    >>> import torch
    >>> model = torch.nn.Linear(2, 1)
    >>> training = attach(model, torch.optim.SGD(model.parameters(), lr=0.1))
    >>> training.step
    0
    """
    models = _listed(model, nn.Module)
    optimizers = [] if optimizer is None else [_inner(one) for one in _listed(optimizer, torch.optim.Optimizer)]
    for thing, kind in [(m, nn.Module) for m in models] + [(o, torch.optim.Optimizer) for o in optimizers]:
        if not isinstance(thing, kind):
            raise TypeError(
                f"attach(model, optimizer) takes a torch.nn.Module and a torch.optim.Optimizer (or lists of them); "
                f"got {type(thing).__name__} where a {kind.__name__} belongs."
            )
    if not optimizers and optimizer is not None:
        raise TypeError(
            "attach(model, optimizer) needs at least one optimizer: its steps are what a training consists of. "
            "A model that is not trained is given alone: attach(model)."
        )
    training = Training(models, optimizers)
    training.kept = [*models, *optimizers]
    return training


def _without_training(recipe: Recipe) -> Recipe:
    """What of a recipe stays in a model that is not trained."""
    kept = Recipe(technique for technique in recipe if technique.stays)
    if not kept:
        raise NothingToDo(
            f"{recipe} does nothing to a model that is not trained. Give the optimizer too: attach(model, optimizer)."
        )
    return kept


@contextlib.contextmanager
def _at_rest(models: Sequence[nn.Module]) -> Iterator[None]:
    """Inside, weights may be looked at also where they are computed: no random number is drawn for good, no estimate moves on."""
    computing = [
        part for model in models for _, part in parts(model) if isinstance(part, parametrize.ParametrizationList)
    ]
    training = [part for one in computing for _, part in parts(one) if part.training]
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices):
        for part in training:
            part.training = False
        try:
            yield
        finally:
            for part in training:
                part.training = True


class _Hook:
    """A hook of an optimizer that tells its training. A copy of the optimizer, or one read from a file, has lost the training."""

    taps = stage.taps

    def __init__(self, call: Callable[..., Any] | None = None) -> None:
        self._call = call

    def __call__(self, *step: Any) -> Any:
        return None if torch.compiler.is_compiling() else self._tell(*step)  # compiled code is as if we were not there

    @uncompiled
    def _tell(self, *step: Any) -> Any:
        with stage.taps.ours():
            return None if self._call is None else self._call(*step)

    def __reduce__(self) -> tuple:
        return type(self), ()


stage.taps.pass_by(_Hook._tell)


def _listed(what: Any, kind: type) -> list[Any]:
    return list(what) if isinstance(what, (list, tuple)) and not isinstance(what, kind) else [what]


def _inner(optimizer: Any) -> Any:
    """The optimizer inside wrappers such as accelerate's, which step the one they hold and have no hooks of their own."""
    while "_optimizer_step_pre_hooks" not in getattr(optimizer, "__dict__", {}) and hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    return optimizer
