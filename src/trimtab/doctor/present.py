"""What a script already has: a remedy that is there has shown that it does not help enough."""

from __future__ import annotations

from collections.abc import Iterator

from trimtab.records import TrainingRecord

_ADAPTIVE = ("Adam", "NAdam", "RAdam", "Adagrad", "Adadelta", "RMSprop", "Adafactor", "Lion", "Muon")
_CLIPPED = 3  # steps whose gradient has the largest norm of all, to four digits: chance makes no two alike


def is_adaptive(optimizer: str) -> bool:
    """Whether an optimizer of this class gives each weight a rate of its own.

    >>> is_adaptive("AdamW"), is_adaptive("SGD")
    (True, False)
    """
    return optimizer.startswith(_ADAPTIVE)


def unused(remedies: tuple[str, ...], training: TrainingRecord) -> tuple[str, ...]:
    """The remedies that the script does not have already.

    >>> unused(("adam", "lr_scale(factor=0.1)"), TrainingRecord(name="a", model="Net", optimizers=("AdamW",)))
    ('lr_scale(factor=0.1)',)
    """
    there = set(_present(training))
    return tuple(remedy for remedy in remedies if remedy.partition("(")[0] not in there)


def _present(training: TrainingRecord) -> Iterator[str]:
    """Names of techniques."""
    kinds = [layer.kind for layer in training.layers]
    if any("Norm" in kind for kind in kinds):
        yield from ("batch_norm", "layer_norm")
    if any("Dropout" in kind for kind in kinds):
        yield from ("dropout", "drop_connect")
    for name in training.optimizers:
        if is_adaptive(name):
            yield from ("adam", "adagrad")
        yield name.lower()
    norms = training.get("grad_norm").finite.values
    if sum(norm > 0.9999 * max(norms) for norm in norms) >= _CLIPPED:
        yield from ("clip_norm", "agc")
    if len(set(training.get("lr").values)) > 1:
        yield from ("warmup", "cosine_decay", "one_cycle")
