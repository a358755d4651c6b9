"""The compiled part of trimtab: CPU kernels, and which of them this machine runs (source: ``cpp/module.cpp``)."""

from typing import Literal

InstructionSet = Literal["avx512bf16", "avx512", "avx2", "neon", "baseline"]

def instruction_set() -> InstructionSet:
    """The instruction set whose kernels run in this process: the best that machine and build share, or TRIMTAB_CPU."""

def compiled_for() -> list[InstructionSet]:
    """The instruction sets that this build carries kernels for, best first."""

def openmp_threads() -> int | None:
    """The number of threads an OpenMP loop started by the calling thread would use; None in a build without OpenMP."""

# Kernels. Addresses are integers (0: none) of memory that the caller keeps alive; trimtab.nn.ops and trimtab.optim call them.
def channel_norm_forward(
    *,
    x: int,
    weight: int,
    bias: int,
    y: int,
    mean: int,
    rstd: int,
    variance: int,
    samples: int,
    channels: int,
    plane: int,
    eps: float,
    batch_statistics: bool,
    activation: int,
    residual: int,
    dropout_p: float,
    seed: int,
    bfloat16: bool,
    threads: int,
) -> None: ...
def channel_norm_backward(
    *,
    x: int,
    weight: int,
    bias: int,
    mean: int,
    rstd: int,
    dy: int,
    dx: int,
    dresidual: int,
    dweight: int,
    dbias: int,
    samples: int,
    channels: int,
    plane: int,
    batch_statistics: bool,
    activation: int,
    residual: int,
    dropout_p: float,
    seed: int,
    bfloat16: bool,
    threads: int,
) -> None: ...
def row_norm_forward(
    *,
    x: int,
    before: int,
    before_p: float,
    before_seed: int,
    weight: int,
    bias: int,
    y: int,
    h: int,
    mean: int,
    rstd: int,
    rows: int,
    columns: int,
    eps: float,
    centered: bool,
    activation: int,
    residual: int,
    dropout_p: float,
    seed: int,
    bfloat16: bool,
    threads: int,
) -> None: ...
def row_norm_backward(
    *,
    x: int,
    before: int,
    before_p: float,
    before_seed: int,
    h_given: bool,
    weight: int,
    bias: int,
    mean: int,
    rstd: int,
    dy: int,
    dh: int,
    dx: int,
    dbefore: int,
    dafter: int,
    dweight: int,
    dbias: int,
    rows: int,
    columns: int,
    centered: bool,
    activation: int,
    residual: int,
    dropout_p: float,
    seed: int,
    bfloat16: bool,
    threads: int,
) -> None: ...
def group_norm_forward(
    *,
    x: int,
    weight: int,
    bias: int,
    y: int,
    mean: int,
    rstd: int,
    samples: int,
    channels: int,
    plane: int,
    groups: int,
    channels_last: bool,
    eps: float,
    activation: int,
    residual: int,
    dropout_p: float,
    seed: int,
    bfloat16: bool,
    threads: int,
) -> None: ...
def group_norm_backward(
    *,
    x: int,
    weight: int,
    bias: int,
    mean: int,
    rstd: int,
    dy: int,
    dx: int,
    dresidual: int,
    dweight: int,
    dbias: int,
    samples: int,
    channels: int,
    plane: int,
    groups: int,
    channels_last: bool,
    activation: int,
    residual: int,
    dropout_p: float,
    seed: int,
    bfloat16: bool,
    threads: int,
) -> None: ...
def response_norm_forward(
    *,
    x: int,
    y: int,
    samples: int,
    channels: int,
    plane: int,
    size: int,
    alpha: float,
    beta: float,
    k: float,
    bfloat16: bool,
    threads: int,
) -> None: ...
def response_norm_backward(
    *,
    x: int,
    dy: int,
    dx: int,
    samples: int,
    channels: int,
    plane: int,
    size: int,
    alpha: float,
    beta: float,
    k: float,
    bfloat16: bool,
    threads: int,
) -> None: ...
def cross_entropy_forward(
    *,
    x: int,
    target: int,
    weight: int,
    loss: int,
    lse: int,
    rows: int,
    classes: int,
    ignore: int,
    smoothing: float,
    bfloat16: bool,
    threads: int,
) -> None: ...
def cross_entropy_backward(
    *,
    x: int,
    target: int,
    weight: int,
    lse: int,
    dloss: int,
    dx: int,
    rows: int,
    classes: int,
    ignore: int,
    smoothing: float,
    bfloat16: bool,
    threads: int,
) -> None: ...
def penalty(
    *, weights: list[int], gradients: list[int], counts: list[int], l1: float, l2: float, threads: int
) -> tuple[float, float]:
    """Adds l1 sign(w) + l2 w to the gradients; gives sum |w| and sum w^2."""

def optimizer_step(
    *,
    rule: str,
    weights: list[int],
    gradients: list[int],
    states: list[list[int]],
    counts: list[int],
    numbers: dict[str, float],
    threads: int,
) -> int:
    """Moves weights and state by one step; gives the number of entries whose gradient is not finite."""

def dropout(*, x: int, y: int, count: int, p: float, seed: int, bfloat16: bool, threads: int) -> None: ...
