"""Numbers that a script gives to a logger: TensorBoard, Weights & Biases, MLflow, Lightning, Hugging Face.

The methods through which they pass are wrapped while somebody listens; a package that is not imported yet is waited for, and never
imported by us. What is logged goes its way unchanged.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

from trimtab.training.safe import suppressed
from trimtab.training.stage import stage
from trimtab.watching.late import when_imported

Tell = Callable[[str, float], None]
Read = Callable[..., Iterator[tuple[str, Any]]]


def listen(tell: Tell) -> Callable[[], None]:
    """Call ``tell(name, value)`` for every number that is logged from here on; the returned function ends it.

    >>> stop = listen(print)
    >>> stop()
    """
    return stage.own(Loggers).listen(tell)


# -- what each method is given ---------------------------------------------------------------------------------------


def _scalar(
    self: Any, tag: Any = None, scalar_value: Any = None, *args: Any, **kwargs: Any
) -> Iterator[tuple[str, Any]]:
    yield str(tag), scalar_value


def _scalars(
    self: Any, main_tag: Any = None, tag_scalar_dict: Any = None, *args: Any, **kwargs: Any
) -> Iterator[tuple[str, Any]]:
    for tag, value in dict(tag_scalar_dict or {}).items():
        yield f"{main_tag}/{tag}", value


def _mapping(self: Any, data: Any = None, *args: Any, **kwargs: Any) -> Iterator[tuple[str, Any]]:
    given = next((kwargs[name] for name in ("logs", "values", "metrics", "data") if name in kwargs), data)
    yield from _flat(given if isinstance(given, Mapping) else {})


def _flat(data: Mapping, above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in data.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{name}/")
        else:
            yield f"{above}{name}", value


def _metric(
    self: Any, run_id: Any = None, key: Any = None, value: Any = None, *a: Any, **k: Any
) -> Iterator[tuple[str, Any]]:
    yield str(key), value


def _batch(
    self: Any, run_id: Any = None, metrics: Sequence[Any] = (), *args: Any, **kwargs: Any
) -> Iterator[tuple[str, Any]]:
    for one in metrics:
        yield str(one.key), one.value


def _epoch(self: Any, *args: Any, **kwargs: Any) -> Iterator[tuple[str, Any]]:
    """What Lightning's ``self.log`` came to, at the end of a pass over the data."""
    if not self.trainer.sanity_checking:
        yield from dict(self.metrics["callback"]).items()


_CONNECTOR = "trainer.connectors.logger_connector.logger_connector"
METHODS: dict[str, tuple[tuple[str, str, Read], ...]] = {
    "torch.utils.tensorboard.writer": (
        ("SummaryWriter", "add_scalar", _scalar),
        ("SummaryWriter", "add_scalars", _scalars),
    ),
    "tensorboardX.writer": (("SummaryWriter", "add_scalar", _scalar), ("SummaryWriter", "add_scalars", _scalars)),
    "wandb.sdk.wandb_run": (("Run", "log", _mapping),),
    "wandb.sdk.lib.noop_run": (("NoopRun", "log", _mapping),),  # WANDB_MODE=disabled
    "mlflow.tracking.client": (("MlflowClient", "log_metric", _metric), ("MlflowClient", "log_batch", _batch)),
    "lightning.pytorch." + _CONNECTOR: (("_LoggerConnector", "on_epoch_end", _epoch),),
    "pytorch_lightning." + _CONNECTOR: (("_LoggerConnector", "on_epoch_end", _epoch),),
    "transformers.trainer": (("Trainer", "log", _mapping),),
    "accelerate.accelerator": (("Accelerator", "log", _mapping),),
}
"""Of every module: a class, its method, and how to read the numbers out of the method's arguments."""


# -- standing in the way ---------------------------------------------------------------------------------------------


class Loggers:
    """Who listens, and the wrappers that stand there while anybody does."""

    def __init__(self) -> None:
        self._listeners: list[Tell] = []
        self._originals: list[tuple[Any, str, Any, Any]] = []
        self._stops: list[Callable[[], None]] = []

    def listen(self, tell: Tell) -> Callable[[], None]:
        """See :func:`listen`."""
        if not self._listeners:
            self._stops.extend(when_imported(module, self._wrap) for module in METHODS)
        self._listeners.append(tell)

        def stop() -> None:
            if tell in self._listeners:
                self._listeners.remove(tell)
                if not self._listeners:
                    self._remove()

        return stop

    def _remove(self) -> None:
        while self._stops:
            self._stops.pop()()
        while self._originals:
            owner, name, original, wrapper = self._originals.pop()
            if owner.__dict__.get(name) is wrapper:
                setattr(owner, name, original)

    def _wrap(self, module: ModuleType) -> None:
        for kind, name, read in METHODS[module.__name__]:
            owner = getattr(module, kind, None)
            original = getattr(owner, "__dict__", {}).get(name)
            if not callable(original):  # another version of the package
                continue
            wrapper = self._telling(original, read)
            self._originals.append((owner, name, original, wrapper))
            setattr(owner, name, wrapper)

    def _telling(self, original: Callable, read: Read) -> Callable:
        listeners = self._listeners

        @functools.wraps(original)
        def logged(self: Any, *args: Any, **kwargs: Any) -> Any:
            result = original(self, *args, **kwargs)
            with suppressed():  # listening must not end the logging
                for name, value in read(self, *args, **kwargs):
                    number = _number(value)
                    if number is not None:
                        for tell in tuple(listeners):
                            tell(name, number)
            return result

        return logged


def _number(value: Any) -> float | None:
    if isinstance(value, (bool, str, bytes)):
        return None
    try:
        return float(value.item() if getattr(value, "ndim", 0) else value)
    except (TypeError, ValueError, RuntimeError, AttributeError):  # no number, or several
        return None
