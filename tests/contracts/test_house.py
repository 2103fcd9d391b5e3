"""The house: which room may import which, what may stand at the top of `glimpse/`, and how large its parts may be."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(file for room in ("glimpse", "envs", "agents") for file in (ROOT / room).rglob("*.py"))

# From the ground up: a room imports only rooms of lower floors, or of its own where it is one room.
FLOORS = (
    ("errors",),
    ("atomic",),
    ("ranks",),
    ("geometry",),
    ("plugins",),
    ("settings",),
    ("sources",),
    ("views", "tasks"),
    ("spaces",),
    ("modalities", "cohort"),
    ("synthetic", "contract", "networks"),
    ("reading", "runs"),
    ("learning", "pictures"),
    ("report", "predicting"),
    ("inspecting",),
    ("train", "evaluate", "predict", "check", "compare", "doctor"),
    ("cross_validate", "demo", "__main__"),
)
COMMANDS = {"train", "evaluate", "predict", "check", "cross_validate", "compare", "doctor", "__main__", "__init__"}
VOCABULARY = {"geometry", "views", "spaces", "modalities", "plugins", "errors", "atomic"}
MAINS = {
    "glimpse/cross_validate.py",
    "glimpse/compare.py",
    "glimpse/train.py",
    "glimpse/evaluate.py",
    "glimpse/predict.py",
    "glimpse/check.py",
    "glimpse/report/__main__.py",
    "glimpse/demo/__main__.py",
}


def name_of(file: Path) -> str:
    """The module's dotted name inside the package."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[1:] if parts[0] == "glimpse" else parts).removesuffix(".__init__") or "__init__"


def imports_of(file: Path, all_of_them: bool = True) -> Iterator[str]:
    """What a file imports of glimpse, as dotted names inside the package; or only what it imports when it is loaded."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree) if all_of_them else _at_once(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "glimpse":
            base = (node.module or "").removeprefix("glimpse").lstrip(".")
            for alias in node.names:
                whole = f"{base}.{alias.name}".lstrip(".")
                yield whole if whole in MODULES else base
        elif isinstance(node, ast.Import):
            yield from (a.name.removeprefix("glimpse.") for a in node.names if a.name.startswith("glimpse."))


def _at_once(tree: ast.Module) -> Iterator[ast.AST]:
    """Statements that run when a module is loaded: not those of functions, nor those for type checkers."""
    todo: list[ast.AST] = list(tree.body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        todo += ast.iter_child_nodes(node)


MODULES = {name_of(file): file for file in FILES}


def floor_of(name: str) -> int:
    room = name.split(".")[0]
    return next(floor for floor, rooms in enumerate(FLOORS) if room in rooms)


def test_every_room_has_a_floor() -> None:
    rooms = {name.split(".")[0] for name in MODULES} - {"envs", "agents", "__init__"}
    assert rooms <= {room for rooms in FLOORS for room in rooms}


@pytest.mark.parametrize("name", [name for name in MODULES if name.split(".")[0] not in ("envs", "agents", "__init__")])
def test_no_import_runs_upward(name: str) -> None:
    room = name.split(".")[0]
    for other in imports_of(MODULES[name]):
        if not other or other.split(".")[0] == room:
            continue
        assert other.split(".")[0] not in ("envs", "agents"), f"{name} imports {other}"
        assert floor_of(other) < floor_of(name), f"{name} imports {other}, which is not below it"


def test_imports_have_no_circle() -> None:
    edges = {name: {one for one in imports_of(file, False) if one in MODULES} for name, file in MODULES.items()}
    packages = {name for name, file in MODULES.items() if file.name == "__init__.py"}
    done: set[str] = set()

    def follow(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path[path.index(name) :], name))
        if name in done:
            return
        for other in edges[name]:
            # A package's own __init__ gathers the names of its modules; modules never import it back.
            if not (name in packages and other.startswith(f"{name}.")):
                follow(other, (*path, name))
        done.add(name)

    for name in MODULES:
        if name != "__init__":
            follow(name, ())


def test_what_lies_at_the_top_is_a_command_or_vocabulary() -> None:
    loose = {file.stem for file in (ROOT / "glimpse").glob("*.py")}
    assert loose <= COMMANDS | VOCABULARY
    commands = loose - VOCABULARY - {"__init__"}
    for name in commands:
        assert "def main(" in (ROOT / "glimpse" / f"{name}.py").read_text(encoding="utf-8")


@pytest.mark.parametrize("file", FILES, ids=[str(file.relative_to(ROOT)) for file in FILES])
def test_only_the_mains_see_a_configuration(file: Path) -> None:
    if str(file.relative_to(ROOT)) in MAINS:
        return
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg]
            for one in given:
                written = ast.unparse(one.annotation) if one is not None and one.annotation is not None else ""
                assert "DictConfig" not in written, f"{node.name}({one.arg}: {written})"


@pytest.mark.parametrize("file", FILES, ids=[str(file.relative_to(ROOT)) for file in FILES])
def test_files_functions_and_constructors_are_of_a_size_to_be_read(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert text.count("\n") <= 400
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        documented = ast.get_docstring(node, clean=False)
        lines = (node.end_lineno or 0) - node.lineno + 1 - (documented.count("\n") + 1 if documented else 0)
        assert lines <= 50, f"{node.name} has {lines} lines"
        if node.name == "__init__":
            count = len(node.args.posonlyargs + node.args.args + node.args.kwonlyargs) - 1
            assert count <= 12, f"a constructor of {file.name} has {count} arguments"
