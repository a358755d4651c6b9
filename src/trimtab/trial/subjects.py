"""Subjects: what a trial runs."""

from __future__ import annotations

import ast
import contextlib
import difflib
import functools
import hashlib
import importlib.metadata
import importlib.util
import inspect
import os
import pickle
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from trimtab.recipe import Refused
from trimtab.records import CodePlace
from trimtab.store import FOLDER
from trimtab.training import Training
from trimtab.training.loop import Pair, fit
from trimtab.watching import Ending, run_script
from trimtab.watching.script import trainings_found

OnTraining = Callable[[Training, CodePlace | None], None]


@dataclass(frozen=True)
class Heard:
    """Who hears what a subject does while it runs: new trainings, lines of output, numbers that it says and numbers in files that it wrote.

    ``at_end`` is called when it has come to its end; ``file`` is where a script lies, if that is another place in this process.
    """

    training: OnTraining
    line: Callable[[str], None] = lambda line: None
    evaluated: Callable[[str, float], None] = lambda name, value: None
    written: Callable[[str, float], None] = lambda name, value: None
    at_end: Callable[[], None] = lambda: None
    file: Path | None = None


class Here:
    """A subject with nothing to say to engines: no file, no command line, nothing to load before, and the same on every machine."""

    file: Path | None = None
    command: list[str] = []
    needs_main = True
    rewrites = False

    def preloads(self) -> list[str]:
        """Installed packages that are imported once instead of in every trial."""
        return []

    def sources(self) -> list[Path]:
        """The files whose text makes it what it is."""
        return []

    def packed(self) -> Any:
        """The same for a machine that has none of its files."""
        return self


class SubjectError(ValueError):
    """A subject that cannot be run at all."""


class Subject(Protocol):
    """Anything that trains when it is run. Must pickle, since every trial runs in a process of its own.

    ``fingerprint`` stands for everything that makes two subjects the same; ``folder`` is where their records are kept; ``roots`` are the
    folders that each of its trials shall have to itself. What an engine needs besides: the ``file`` that runs and its ``command`` line,
    where there are any, which installed packages it ``preloads``, the files of its ``sources``, whether it ``needs_main``, the
    program that started its trial, and whether it ``rewrites`` files of the folder first.
    ``packed`` is the same for a machine that has none of its files.
    """

    @property
    def label(self) -> str: ...
    @property
    def folder(self) -> Path: ...
    @property
    def roots(self) -> tuple[Path, ...]: ...
    @property
    def file(self) -> Path | None: ...
    @property
    def command(self) -> list[str]: ...
    @property
    def needs_main(self) -> bool: ...
    @property
    def rewrites(self) -> bool: ...
    def preloads(self) -> list[str]: ...
    def sources(self) -> list[Path]: ...
    def packed(self) -> Subject: ...
    def fingerprint(self) -> str: ...
    def run(self, heard: Heard) -> Ending: ...


def subject_of(what: Subject | str | os.PathLike) -> Subject:
    """A subject from any of its forms: itself, or the path of a script.

    Raises:
        SubjectError: if there is no such script, or it is no subject.
    """
    if isinstance(what, (str, os.PathLike)):
        return Script(os.fspath(what))
    if not isinstance(what, type) and all(hasattr(what, part) for part in ("label", "folder", "fingerprint", "run")):
        return what
    told = (
        f"the {'class' if isinstance(what, type) else 'function'} {what.__name__}"
        if hasattr(what, "__name__")
        else repr(what)
    )
    raise SubjectError(
        f"A subject is the path of a script, a Script with its arguments, or a Task; got {told[:200]}. Every trial runs in a process "
        "of its own, so what trains must be found there: put it into a file and give that, 'train.py' or "
        "tt.Script('train.py', ('--lr', '0.1')); or describe it by functions that can be imported from a file: "
        "tt.Task('digits', model=make_model, data=load_data)."
    )


@dataclass(frozen=True)
class Script:
    """An unmodified training script with its arguments.

    Args:
        target: path of the script, or with ``module`` a module name as for ``python -m``.
        arguments: the script's own command line.

    Raises:
        SubjectError: if there is no such script; the nearest names in its folder are offered.
    """

    target: str
    arguments: tuple[str, ...] = ()
    module: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "target", os.fspath(self.target))
        object.__setattr__(self, "arguments", tuple(map(str, self.arguments)))
        if self.module:
            if self._module_file() is None:
                raise SubjectError(
                    f"There is no module {_shown(self.target)} that python -m could run from {Path.cwd()}.{_near_modules(self.target)}"
                )
            return
        path, name = Path(self.target), _shown(self.target)
        try:
            there = path.is_file()
        except OSError:  # a name that no file can have
            raise SubjectError(
                f"{name} does not exist. Give the path of a Python file that trains a network."
            ) from None
        if not there:
            what = "is a folder, not a script." if path.is_dir() else "does not exist."
            raise SubjectError(
                f"{name} {what}{_near_files(path)} Give the path of a Python file that trains a network."
            )
        if path.suffix == ".ipynb":
            raise SubjectError(
                f"{name} is a notebook, not a Python file. Make it one, and run that: jupyter nbconvert --to script {path}. "
                "Or stay in the notebook: a cell with tt.attach(model, optimizer).watch() watches what is trained below it."
            )
        if path.suffix in (".sh", ".bash", ".zsh"):
            raise SubjectError(
                f"{name} is a shell script, not a Python file. Give the Python file that it starts, with the arguments it gives."
            )

    @property
    def label(self) -> str:
        said = " ".join(["-m" if self.module else "", self.target, *self.arguments]).strip()
        return said.encode(errors="replace").decode()  # an argument may be no text at all; records are

    @property
    def path(self) -> Path:
        """The file that runs."""
        if not self.module:
            return Path(self.target).resolve()
        return self._module_file() or Path.cwd() / self.target

    def _module_file(self) -> Path | None:
        found = sys.path[0]
        sys.path[0] = os.getcwd()  # as python -m does
        try:
            importlib.invalidate_caches()
            spec = importlib.util.find_spec(self.target)
            if spec is not None and spec.submodule_search_locations is not None:  # a package runs its __main__
                spec = importlib.util.find_spec(f"{self.target}.__main__")
        except (
            ImportError,
            ValueError,
            RecursionError,
        ):  # a package on the way is missing, or is no package; no end of dots
            return None
        finally:
            sys.path[0] = found
        return Path(spec.origin).resolve() if spec is not None and spec.has_location and spec.origin else None

    @property
    def file(self) -> Path:
        """The file that runs."""
        return self.path

    @property
    def command(self) -> list[str]:
        """The command line, as the script sees it."""
        return [self.target, *self.arguments]

    needs_main = False
    rewrites = False

    def preloads(self) -> list[str]:
        """Installed packages that the script imports."""
        try:
            tree = ast.parse(self.path.read_text())
        except (OSError, SyntaxError, UnicodeDecodeError):
            return []
        names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
        names += [n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module and not n.level]
        return [name for name in dict.fromkeys(names) if _installed(name.split(".")[0])]

    def packed(self) -> Packed:
        """With the files of its own folder that it imports; data files do not go along."""
        files = {os.path.relpath(file, self.root): text for file, text in self.texts().items()}
        target = self.target if self.module else os.path.relpath(self.path, self.root)
        return Packed(target, self.arguments, self.module, self.label, self.fingerprint(), files)

    @property
    def folder(self) -> Path:
        return self.path.parent / FOLDER

    @property
    def roots(self) -> tuple[Path, ...]:
        return Path.cwd(), self.path.parent

    def fingerprint(self) -> str:
        """Of the script's text, that of the modules of its own folder which it imports, and its arguments."""
        digest = hashlib.sha256(_versions().encode())
        digest.update(repr((self.path.name, self.arguments, self.module)).encode())
        for file, text in sorted(self.texts().items()):
            digest.update(f"{file.name} {len(text)} ".encode(errors="surrogateescape") + text)
        return digest.hexdigest()[:16]

    def sources(self) -> list[Path]:
        """The script, and the modules of its own folder which it imports."""
        return sorted(self.texts())

    def texts(self) -> dict[Path, bytes]:
        """The text of each of them."""
        return with_imports(self.path, self.root)

    @property
    def root(self) -> Path:
        """The folder from which it imports."""
        return Path.cwd() if self.module else self.path.parent

    def run(self, heard: Heard) -> Ending:
        return run_script(
            self.target,
            self.arguments,
            module=self.module,
            on_training=heard.training,
            on_line=heard.line,
            on_written=heard.written,
            at_end=heard.at_end,
            file=heard.file,
        )


@dataclass(frozen=True)
class Packed(Here):
    """A script with its files, which any machine can run: in a folder that is made for it, and gone afterwards."""

    target: str
    arguments: tuple[str, ...]
    module: bool
    label: str
    told: str  # the fingerprint
    files: dict[str, bytes]

    needs_main = False

    @property
    def folder(self) -> Path:
        return Path.cwd() / FOLDER

    @property
    def roots(self) -> tuple[Path, ...]:
        return ()

    def fingerprint(self) -> str:
        """That of the script."""
        return self.told

    def run(self, heard: Heard) -> Ending:
        """Run the script in a folder that has its files."""
        with tempfile.TemporaryDirectory(prefix="trimtab-") as folder, contextlib.chdir(folder):
            for name, text in self.files.items():
                file = Path(folder, name)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(text)
            return Script(self.target, self.arguments, self.module).run(heard)


def _installed(package: str) -> bool:
    # only what was installed by a package manager: importing a user's own module may run anything
    if package in sys.stdlib_module_names:
        return False
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return False
    return bool(spec and spec.origin and "site-packages" in spec.origin)


def _shown(name: str, most: int = 100) -> str:
    """A name as it was given, for a message; a very long one cut short."""
    return repr(name) if len(name) <= most else f"{name[:most]!r}..."


def _near_files(path: Path) -> str:
    folder = path.parent if path.parent.is_dir() else Path()
    scripts = sorted(p.name for p in folder.glob("*.py"))
    near = difflib.get_close_matches(path.name, scripts, n=3, cutoff=0.5)
    if not near:  # train for train.py, a module's name for its file
        near = [name for name in scripts if name.removesuffix(".py") == path.name]
    return f" Did you mean {' or '.join(str(folder / name) for name in near)}?" if near else ""


def _near_modules(name: str) -> str:
    package, _, last = name.rpartition(".")
    folder = Path.cwd().joinpath(*package.split(".")) if package else Path.cwd()
    try:
        beside = sorted({p.stem for p in folder.glob("*.py")} | {p.parent.name for p in folder.glob("*/__init__.py")})
    except OSError:  # a name that no folder can have
        beside = []
    near = difflib.get_close_matches(last.removesuffix(".py") or name, beside, n=3, cutoff=0.5)
    offers = [f"{package}.{one}" if package else one for one in near]
    if name.endswith(".py"):
        offers = [name.removesuffix(".py").replace("/", ".")]
    return f" Did you mean {' or '.join(offers)}?" if offers else ""


def _versions() -> str:
    try:
        own = importlib.metadata.version("trimtab")
    except importlib.metadata.PackageNotFoundError:
        own = ""
    return f"{own} {torch.__version__} "


def with_imports(path: Path, root: Path, read: Callable[[Path], bytes] = Path.read_bytes) -> dict[Path, bytes]:
    """The text of a file and of all files under ``root`` that it imports by name, directly or not.

    Args:
        read: gives the text of a file, or raises OSError where there is none.
    """
    found: dict[Path, bytes] = {}
    waiting = [path]
    while waiting:
        file = waiting.pop()
        if file in found:
            continue
        try:
            found[file] = read(file)
        except OSError:
            continue
        for base, name in _imported(found[file], file, root):
            whole = base.joinpath(*name.split("."))
            # a.b.c may be a module, a package, or something in one: whatever of it is a file, with the packages above it
            for place in (whole, *whole.parents):
                if place in (root, root.parent):
                    break
                waiting += [place.with_name(place.name + ".py"), place / "__init__.py"]
    return found


@functools.lru_cache(maxsize=1000)
def _imported(text: bytes, file: Path, root: Path) -> tuple[tuple[Path, str], ...]:
    """What a module imports, each as a folder and a dotted name in it."""
    try:
        tree = ast.parse(text)
    except (
        SyntaxError,
        ValueError,
        RecursionError,
        MemoryError,
    ):  # it will fail when it runs, and is itself all the same
        return ()
    found: list[tuple[Path, str]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(root, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = file.parents[node.level - 1] if 0 < node.level <= len(file.parents) else root
            found += [(base, f"{node.module}.{alias.name}" if node.module else alias.name) for alias in node.names]
    return tuple(found)


@dataclass(frozen=True)
class _Named:
    """A function of ``torch.nn.functional``, looked up when it is called: the watch stands before the functions of that module, not
    before what was taken from it earlier, and what was taken earlier cannot be sent to another process meanwhile."""

    name: str

    def __call__(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        return getattr(nn.functional, self.name)(*args, **kwargs)


@dataclass(frozen=True)
class Task(Here):
    """A training described in Python, run by our own small loop.

    Functions must be importable from a file (no lambdas, nothing typed at a prompt): every trial runs in a process of its own.
    A file that starts trials of its own tasks needs the usual guard, ``if __name__ == "__main__":``. Finished trials are kept
    by the text of these functions; when only something that they call has changed, give the task another name.

    Args:
        name: what it is called; records are kept in ``.trimtab/`` of the current folder.
        model: makes the model.
        data: gives ``(train inputs, train targets), (held-out inputs, held-out targets)``.
        loss: ``loss(output, target)``; held-out accuracy is measured when it is one of torch's classification losses.
        optimizer: makes the optimizer from the parameters; SGD with rate 0.1 and momentum 0.9 by default.
        epochs: passes over the training data.
        batch_size: samples a step.

    Raises:
        SubjectError: if a function cannot be sent to another process.
    """

    name: str
    model: Callable[[], nn.Module]
    data: Callable[[], tuple[Pair, Pair]]
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = nn.functional.cross_entropy
    optimizer: Callable | None = None
    epochs: int = 10
    batch_size: int = 32

    def __post_init__(self) -> None:
        if getattr(self.loss, "__module__", "") == nn.functional.__name__:
            object.__setattr__(self, "loss", _Named(self.loss.__name__))
        for role in ("model", "data", "loss", "optimizer"):
            function = getattr(self, role)
            module = sys.modules.get(getattr(function, "__module__", None) or "")
            try:
                pickle.dumps(function)
                if getattr(module, "__name__", "") == "__main__" and not hasattr(module, "__file__"):
                    raise pickle.PicklingError("it was typed at a prompt")
            except (pickle.PicklingError, AttributeError, TypeError) as error:
                raise SubjectError(
                    f"Task {self.name!r}: every trial runs in a process of its own, and {role}={function!r} cannot be sent there "
                    f"({error}). Define it with def at the top of a file and import it from there."
                ) from None

    @property
    def label(self) -> str:
        return self.name

    @property
    def folder(self) -> Path:
        return Path.cwd() / FOLDER

    @property
    def roots(self) -> tuple[Path, ...]:
        return (Path.cwd(),)

    def fingerprint(self) -> str:
        digest = hashlib.sha256(_versions().encode())
        digest.update(repr((self.name, self.epochs, self.batch_size)).encode())
        for part in (self.model, self.data, self.loss, self.optimizer):
            try:
                digest.update(inspect.getsource(part).encode())  # type: ignore[arg-type]
            except (TypeError, OSError):
                digest.update(pickle.dumps(part))
        return digest.hexdigest()[:16]

    def run(self, heard: Heard) -> Ending:
        try:
            with trainings_found(heard.training):
                self._fit(heard.evaluated)
        except Exception as error:
            traceback.print_exc()
            return Ending(1, traceback.format_exception_only(error)[-1].strip(), refused=isinstance(error, Refused))
        return Ending()

    def made(self) -> tuple[tuple[Pair, Pair], nn.Module, torch.optim.Optimizer]:
        """The data, the model and the optimizer, in this order: what one draws at random moves what the next one draws."""
        data = self.data()
        model = self.model()
        parameters = model.parameters()
        optimizer = self.optimizer(parameters) if self.optimizer else torch.optim.SGD(parameters, lr=0.1, momentum=0.9)
        return data, model, optimizer

    @property
    def measured(self) -> bool:
        """Whether its loss is one of torch's, which are measured wherever they are evaluated."""
        return isinstance(self.loss, _Named) or type(self.loss).__module__.startswith("torch.nn")

    def _fit(self, on_value: Callable[[str, float], None]) -> None:
        (train, held_out), model, optimizer = self.made()
        fit(
            model, optimizer, train, held_out, self.loss, epochs=self.epochs, batch_size=self.batch_size,
            evaluated=(lambda name, value: None) if self.measured else on_value,
        )  # fmt: skip
