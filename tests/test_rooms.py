"""Arrows point down: no room of the package imports another that its row of the table does not name.

To add a room, give it a row. When a row stands in your way, a record usually wants to move down a room,
or a declaration wants to move into the member it describes; widening the row is the last resort.
"""

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "trimtab"

FRONT_DOOR = "trimtab"  # src/trimtab/__init__.py, and what is imported from it by name

MAY_IMPORT: dict[str, set[str]] = {
    # the ground
    "_cpu": set(),
    "user_folders": set(),
    "records": set(),
    "members": set(),
    "values": set(),
    "structure": set(),
    "copies": set(),
    "untouched": set(),
    "graph": {"copies"},
    # parts
    "_kernels": {"_cpu"},
    "optim": {"_kernels", "values", "untouched"},
    "data": {"values"},
    "nn": {"_kernels", "copies", "graph", "untouched"},
    # words
    "quantities": {"records"},
    "ledger": {"records"},
    "recipe": {"records", "members"},
    "store": {"records", "members"},
    # what is seen
    "reading": {"nn", "optim", "graph", "copies", "records"},
    "signals": {"reading", "records", "structure", "members"},
    "report": {"records", "quantities", "ledger", "members"},
    # what happens
    "techniques": {"recipe", "reading", "graph", "copies", "untouched", "nn", "optim", "data", "records", "quantities"},
    "training": {"recipe", "reading", "records", "structure", "untouched"},
    "watching": {"training", "recipe", "reading", "signals", "store", "records", "quantities", "structure", "members"},
    "doctor": {"recipe", "signals", "records", "quantities", "members"},
    "trial": {
        "watching",
        "training",
        "recipe",
        "members",
        "store",
        "records",
        "doctor",
        "quantities",
        "ledger",
        "user_folders",
    },
    "reporting": {"report", "doctor", "store", "records", "user_folders", "quantities"},
    "claims": {"trial", "techniques", "nn", "optim", "data", "records"},
}
MAY_IMPORT["cli"] = {*MAY_IMPORT, FRONT_DOOR}
MAY_IMPORT["testing"] = set(MAY_IMPORT)
MAY_IMPORT["__main__"] = {"cli"}
MAY_IMPORT[FRONT_DOOR] = set(MAY_IMPORT)


def imported_names(source: str, module: str, is_package: bool) -> Iterator[tuple[int, str, list[str]]]:
    """All imports of a module, wherever they stand: ``(line, absolute module, names taken from it)``.

    Imports inside functions and under ``TYPE_CHECKING`` are arrows too, and so is ``importlib.import_module("...")``.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                # Without "as", `import a.b` also binds `a`; what is then used of `a` is not looked at.
                yield node.lineno, alias.name, []
        elif isinstance(node, ast.ImportFrom):
            parents = module.split(".")
            kept = len(parents) - node.level + is_package if node.level else 0
            origin = ".".join([*parents[:kept], *([node.module] if node.module else [])])
            yield node.lineno, origin, [alias.name for alias in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            for argument in node.args[:1]:
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    yield node.lineno, argument.value, []


def rooms_of(origin: str, names: list[str]) -> set[str]:
    """The rooms that one import reaches; nothing for other people's packages."""
    package, _, rest = origin.partition(".")
    if package != FRONT_DOOR:
        return set()
    if rest:
        return {rest.split(".")[0]}
    return {name if name in MAY_IMPORT else FRONT_DOOR for name in names} or {FRONT_DOOR}


def forbidden_imports(package: Path) -> list[str]:
    """One line for each import between rooms that the table does not allow."""
    found = []
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        parts = parts[:-1] if is_package else parts
        room = parts[1] if len(parts) > 1 else FRONT_DOOR
        where = path.relative_to(package.parent).as_posix()
        if room not in MAY_IMPORT:
            found.append(f"{where}: the room {room!r} has no row in the table of tests/test_rooms.py; give it one.")
            continue
        for line, origin, names in imported_names(path.read_text(encoding="utf-8"), ".".join(parts), is_package):
            for target in sorted(rooms_of(origin, names) - {room} - MAY_IMPORT[room]):
                allowed = ", ".join(sorted(MAY_IMPORT[room])) or "no other room"
                found.append(f"{where}:{line}: {room} imports {target}; it may import {allowed}.")
    return found


def test_rooms_import_only_what_the_table_allows():
    assert not (found := forbidden_imports(PACKAGE)), "\n" + "\n".join(found)


def test_the_table_itself_has_no_cycle():
    rooms = {room: allowed - {FRONT_DOOR} for room, allowed in MAY_IMPORT.items() if room != FRONT_DOOR}
    graphlib.TopologicalSorter(rooms).prepare()  # raises CycleError


def files_of(package: Path) -> dict[str, tuple[Path, bool]]:
    """Every module of the package by its name, with its file, and whether it is a package."""
    found = {}
    for path in package.rglob("*.py"):
        parts = path.relative_to(package.parent).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        found[".".join(parts[:-1] if is_package else parts)] = path, is_package
    return found


def circle_of_files(package: Path) -> list[str]:
    """Modules that import one another in a circle; empty where there is none. An import that stands in a function is one, too."""
    files = files_of(package)
    graph: dict[str, set[str]] = {}
    for module, (path, is_package) in files.items():
        targets: set[str] = set()
        for _, origin, names in imported_names(path.read_text(encoding="utf-8"), module, is_package):
            inner = {f"{origin}.{name}" for name in names} & files.keys()
            targets |= inner | ({origin} & files.keys() if len(inner) < max(1, len(names)) else set())
        graph[module] = targets - {module}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def test_no_files_import_one_another_in_a_circle():
    assert not (found := circle_of_files(PACKAGE)), " -> ".join(found)


def names_with_two_meanings(package: Path) -> dict[str, list[str]]:
    """Names that two files define and others import from both. A technique may have the name of its part, a layer that of its kernel."""
    files, homes, imported = files_of(package), {}, set()
    for module, (path, is_package) in files.items():
        source = path.read_text(encoding="utf-8")
        for node in ast.parse(source).body:
            targets = (
                node.targets
                if isinstance(node, ast.Assign)
                else [node.target]
                if isinstance(node, ast.AnnAssign)
                else []
            )
            named = (
                [node.name]
                if isinstance(node, (ast.FunctionDef, ast.ClassDef))
                else [ast.unparse(one) for one in targets]
            )
            for name in named:
                homes.setdefault(name, set()).add(module)
        for _, origin, names in imported_names(source, module, is_package):
            imported |= {(origin, name) for name in names}
    found = {name: sorted(one for one in modules if (one, name) in imported) for name, modules in homes.items()}
    apart = {
        name: [one for one in modules if ".techniques." not in one and ".nn.ops." not in one]
        for name, modules in found.items()
    }
    return {name: modules for name, modules in apart.items() if len(modules) > 1 and not name.startswith("_")}


def test_no_name_that_others_import_has_two_meanings():
    assert not names_with_two_meanings(PACKAGE)


def test_a_planted_name_with_two_meanings_is_found(tmp_path: Path):
    (room := tmp_path / "trimtab").mkdir()
    for name in "ab":
        (room / f"{name}.py").write_text("KINDS = ()")
    (room / "c.py").write_text("from trimtab.a import KINDS")
    assert not names_with_two_meanings(room)
    (room / "d.py").write_text("from trimtab.b import KINDS")
    assert names_with_two_meanings(room) == {"KINDS": ["trimtab.a", "trimtab.b"]}


def test_no_technique_imports_another():
    """What two of them share is an engine."""
    found = []
    for path in (PACKAGE / "techniques").glob("[!_]*.py"):
        for line, origin, names in imported_names(
            path.read_text(encoding="utf-8"), f"trimtab.techniques.{path.stem}", False
        ):
            if origin.startswith("trimtab.techniques") and not origin.startswith("trimtab.techniques.engines"):
                found.append(f"{path.name}:{line}: {origin} {names}")
    assert not found


@pytest.mark.parametrize("late", [False, True])
def test_a_planted_circle_of_files_is_found(tmp_path: Path, late: bool):
    (room := tmp_path / "trimtab" / "nn").mkdir(parents=True)
    (room / "a.py").write_text("from trimtab.nn import b")
    (room / "b.py").write_text("from .c import d")
    assert circle_of_files(tmp_path / "trimtab") == []
    (room / "c.py").write_text("def d():\n    import trimtab.nn.a" if late else "from trimtab.nn.a import b")
    assert set(circle_of_files(tmp_path / "trimtab")) == {"trimtab.nn.a", "trimtab.nn.b", "trimtab.nn.c"}


@pytest.mark.parametrize(
    ("path", "source", "message"),
    [
        (
            "nn/a.py",
            "from trimtab.records import Series",
            "trimtab/nn/a.py:1: nn imports records; it may import _kernels, copies, graph, untouched.",
        ),
        ("nn/a.py", "import os, trimtab.optim.sam", "nn imports optim"),
        ("signals/a.py", "import trimtab.doctor as doctor", "signals imports doctor"),
        ("report/a.py", "from trimtab import trial", "report imports trial"),
        ("report/a.py", "from trimtab import diagnose", "report imports trimtab"),
        ("report/a.py", "import trimtab as tt", "report imports trimtab"),
        ("recipe.py", "def f():\n    from .training import Training", "trimtab/recipe.py:2: recipe imports training"),
        ("doctor/rules/a.py", "from ...trial.stats import mean", "doctor imports trial"),
        ("doctor/rules/__init__.py", "from ...trial import stats", "doctor imports trial"),
        ("doctor/__init__.py", "from .. import claims", "doctor imports claims"),
        ("training/a.py", "if TYPE_CHECKING:\n    import trimtab.techniques", "training imports techniques"),
        ("records.py", "import importlib\nimportlib.import_module('trimtab.nn')", "records imports nn"),
        ("techniques/a.py", "from trimtab import _cpu", "techniques imports _cpu"),
        ("cellar/a.py", "", "trimtab/cellar/a.py: the room 'cellar' has no row in the table"),
    ],
)
def test_a_planted_import_is_found(tmp_path: Path, path: str, source: str, message: str):
    file = tmp_path / "trimtab" / path
    file.parent.mkdir(parents=True)
    file.write_text(source)
    (found,) = forbidden_imports(tmp_path / "trimtab")
    assert message in found


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("__init__.py", "from trimtab import trial\nfrom .nn import RMSNorm\nimport trimtab._kernels"),
        ("cli/info.py", "import trimtab as tt\nfrom trimtab import _cpu, claims"),
        (
            "nn/rms_norm/module.py",
            "from .reference import rms_norm\nfrom ..functional import f\nimport trimtab._kernels",
        ),
        ("doctor/rules/__init__.py", "from .. import judge\nfrom . import dead_units\nfrom ...records import Finding"),
        ("records.py", "import trimtab_extras, msgspec\nfrom torch import nn, optim"),
    ],
)
def test_an_allowed_import_is_left_alone(tmp_path: Path, path: str, source: str):
    file = tmp_path / "trimtab" / path
    file.parent.mkdir(parents=True)
    file.write_text(source)
    assert forbidden_imports(tmp_path / "trimtab") == []


def state_of_the_process(package: Path) -> list[str]:
    """What a module could keep from one training to the next: empty containers, objects of classes of ours, names that functions set."""
    found = []
    containers = (
        "dict",
        "list",
        "set",
        "defaultdict",
        "deque",
        "WeakSet",
        "WeakKeyDictionary",
        "WeakValueDictionary",
        "local",
    )
    for module, (path, _) in files_of(package).items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        classes = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
        for node in tree.body:
            value = node.value if isinstance(node, (ast.Assign, ast.AnnAssign)) else None
            empty = isinstance(value, (ast.List, ast.Dict)) and not (
                value.elts if isinstance(value, ast.List) else value.keys
            )
            made = ast.unparse(value.func).rpartition(".")[2] if isinstance(value, ast.Call) else ""
            target = ast.unparse(node.targets[0] if isinstance(node, ast.Assign) else node.target) if value else ""
            if empty or made in containers or (made in classes and not target.isupper()):
                found.append(f"{module}: {target}")
        found += [f"{module}: {node.names[0]}" for node in ast.walk(tree) if isinstance(node, ast.Global)]
    return found


def test_only_the_stage_keeps_what_is_one_per_process():
    """Besides it there is the registry of techniques, and tables that modules fill while they are imported."""
    assert state_of_the_process(PACKAGE) == ["trimtab.training.stage: stage"]


@pytest.mark.parametrize(
    "source",
    [
        "kept = []",
        "import weakref\nkept: set = weakref.WeakSet()",
        "class A: ...\nkept = A()",
        "def f():\n    global kept",
    ],
)
def test_planted_state_is_found(tmp_path: Path, source: str):
    (room := tmp_path / "trimtab").mkdir()
    (room / "a.py").write_text(source)
    assert state_of_the_process(room) == ["trimtab.a: kept"]


def loaded(code: str) -> set[str]:
    """The packages and modules that are there after some code, in a fresh process."""
    code = f"import sys\n{code}\nprint(*sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    return set(shown.stdout.split())


HEAVY = {"torch", "numpy", "scipy", "matplotlib", "optuna", "jinja2"}


@pytest.mark.parametrize(
    "module", ["cli", "store", "records", "recipe", "report", "cli.cards", "cli.report", "__main__"]
)
def test_what_answers_at_once_starts_without_torch(module):
    """torch takes a second to import, and is loaded by the command that needs it."""
    assert not loaded(f"import trimtab.{module}") & HEAVY


def test_the_compiler_of_torch_is_loaded_by_who_compiles():
    """``torch.compiler.disable`` imports it where it decorates: a second for everybody who imports us."""
    rooms = ", ".join(
        f"trimtab.{room}" for room in ("techniques", "training", "doctor", "trial", "nn", "optim", "data")
    )
    assert not loaded(f"import {rooms}") & {"torch._dynamo", "torch._inductor", "matplotlib", "scipy.stats", "optuna"}
