"""Launchers: programs that train in child processes, where ``trimtab watch LAUNCHER`` would see nothing.

They are recognised by their name before anything runs, and the answer is the line that works: the launcher starts trimtab in
each of its processes. To add one, write a line in the table.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

import click


@dataclass(frozen=True)
class Launcher:
    """A program that starts a script.

    Args:
        programs: how it is called on a command line; all words of one must be there.
        modules: how it is called by ``python -m``.
        line: the line that runs trimtab under it; ``{options}`` are the launcher's own.
        children: whether it trains in child processes; else it only stands before the script.
        unknown: options of older forms that the program of the line does not know.
    """

    programs: tuple[str, ...]
    modules: tuple[str, ...]
    line: str
    children: bool = True
    unknown: tuple[str, ...] = ()


LAUNCHERS = (
    Launcher(
        ("torchrun",),
        ("torch.distributed.run", "torch.distributed.launch"),
        "torchrun {options} -m trimtab {watch}",
        unknown=("--use_env", "--use-env"),
    ),
    Launcher(
        ("accelerate launch", "accelerate-launch"),
        ("accelerate.commands.launch", "accelerate.commands.accelerate_cli launch"),
        "accelerate launch {options} -m trimtab {watch}",
    ),
    Launcher(("deepspeed", "ds"), ("deepspeed.launcher.runner",), "deepspeed {options} --module trimtab {watch}"),
    Launcher(("mpirun", "mpiexec", "srun", "horovodrun"), (), "{program} {options} python -m trimtab {watch}"),
    Launcher(("uv run", "poetry run", "pdm run", "pipenv run"), (), "{program} {options} trimtab {watch}", children=False),
    Launcher(("python", "python3"), (), "trimtab {watch}", children=False),
)  # fmt: skip


@dataclass(frozen=True)
class Launch:
    """What a user gave to trimtab, taken apart: the launcher and its options, the script and its arguments."""

    launcher: Launcher
    program: str
    options: tuple[str, ...]
    script: tuple[str, ...]


def recognised(script: str, arguments: Sequence[str], module: bool) -> Launch | None:
    """The launcher in the place of a script, if it is one."""
    said = [script, *arguments]
    if not module:  # /usr/bin/torchrun, site-packages/torch/distributed/run.py
        path = PurePath(script)
        dotted = ".".join(path.parts).removesuffix(".py")
        for launcher in LAUNCHERS:
            for name in launcher.modules if path.suffix == ".py" else ():
                if dotted.endswith(f".{name}"):
                    return _taken_apart(launcher, name, said[1:])
        said[0] = re.sub(r"^(python3?)(\.\d+)?$", r"\1", path.name)
    for launcher in LAUNCHERS:
        for name in launcher.modules if module else launcher.programs:
            words = name.split()
            if said[: len(words)] == words:
                return _taken_apart(launcher, name, said[len(words) :])
    return None


def _taken_apart(launcher: Launcher, program: str, said: Sequence[str]) -> Launch:
    """The script is the first Python file, or what follows ``-m``; what stands before belongs to the launcher."""
    options: list[str] = []
    module = False
    for place, word in enumerate(said):
        if word in ("-m", "--module"):
            module = True
        elif word.endswith(".py") or (module and said[place - 1] in ("-m", "--module") and not word.startswith("-")):
            return Launch(launcher, program, tuple(options), (*["-m"] * module, *said[place:]))
        elif PurePath(word).name not in ("python", "python3") and word not in launcher.unknown:
            options.append(word)
    return Launch(launcher, program, tuple(options), ("train.py", "..."))


def refuse_launcher(script: str, arguments: Sequence[str], module: bool) -> None:
    """End the command with the line that works, if its script is a launcher."""
    launch = recognised(script, arguments, module)
    context = click.get_current_context()
    command = str(context.command.name)
    if launch is None:
        if command != "watch" and (many := _processes()) > 1:
            raise click.UsageError(
                f"trimtab {command} runs every trial as one process, and a launcher has started {many} of it, which would wait "
                "for one another in every trial. Start it without the launcher, if the script trains alone too; under the launcher "
                "goes trimtab watch."
            )
        return
    ours = shlex.join([command, *_given(context)])
    itself = f"{ours} {_joined(launch.script)}"
    line = launch.launcher.line.format(options=_joined(launch.options), watch=itself, program=launch.program)
    line = re.sub(r"  +", " ", line)
    name = launch.program
    if not launch.launcher.children:
        text = f"{name!r} is no script; trimtab runs the Python file itself. Write:\n\n  {line}"
    elif command == "watch":
        text = f"{name} trains in child processes, and trimtab sees the process that it runs in. Let {name} start trimtab:\n\n  {line}"
    else:
        text = (
            f"{name} starts processes of its own, and trimtab {command} runs every trial as one process. Give it the script "
            f"itself, if that trains alone too:\n\n  trimtab {itself}"
        )
    raise click.UsageError(text)


def _processes() -> int:
    """How many processes a launcher has started this one among: torchrun and its like, Open MPI, MPICH."""
    sizes = (os.environ.get(name, "") for name in ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE"))
    return max((int(said) for said in sizes if said.isdecimal()), default=1)


def _joined(words: Sequence[str]) -> str:
    return " ".join(word if word == "..." else shlex.quote(word) for word in words)


def _given(context: click.Context) -> list[str]:
    """The options of trimtab itself as they were given."""
    words = []
    for option in context.command.params:
        source = context.get_parameter_source(str(option.name))
        if (
            not isinstance(option, click.Option)
            or option.name == "module"
            or source is not click.core.ParameterSource.COMMANDLINE
        ):
            continue
        value = context.params[str(option.name)]
        if option.is_flag:
            words.append(option.opts[-1])
        for one in value if option.multiple else [] if option.is_flag else [value]:
            words += [option.opts[-1], f"{one:g}" if isinstance(one, float) else str(one)]
    return words
