"""The command `glimpse`, or `python -m glimpse`: lists the commands, or runs one, such as `glimpse train env=wsi`."""

import ast
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import glimpse
from glimpse.settings.collecting import without_collecting
from glimpse.settings.nearest import suggestion
from glimpse.settings.terminal import put_out

EXAMPLE = "glimpse train env=wsi agent=ppo"
# Listed first, in this order; others follow by name.
_FIRST = ("demo", "check", "train", "evaluate", "report", "cross-validate", "compare", "predict", "doctor")


def commands(folder: Path | None = None) -> dict[str, str]:
    """Finds the commands: the modules and packages with a function `main`, with the first line of their docstring.

    The files are parsed, not imported, so that listing the commands does not import PyTorch.

    Args:
        folder: The folder with the modules; the package itself if not given.

    Returns:
        One line per command, in the order in which to list them.
    """
    found, folder = {}, folder or Path(__file__).parent
    for file in [*folder.glob("[!_]*.py"), *folder.glob("[!_]*/__main__.py")]:
        tree = ast.parse(file.read_text(encoding="utf-8"), filename=str(file))
        if any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body):
            name = file.parent.name if file.name == "__main__.py" else file.stem
            found[name.replace("_", "-")] = (ast.get_docstring(tree) or "").partition("\n")[0]
    rank = {name: place for place, name in enumerate(_FIRST)}
    return dict(sorted(found.items(), key=lambda item: (rank.get(item[0], len(rank)), item[0])))


def overview() -> str:
    """Returns the text that `glimpse` prints if it is called without a command."""
    found = commands()
    width = max(map(len, found), default=0)
    listed = "\n".join(f"  glimpse {name:<{width}}  {line}" for name, line in found.items())
    return (
        f"glimpse {glimpse.__version__}: reinforcement learning on large medical images\n\n"
        f"Commands (--help shows the options of one; each is a module, too: python -m glimpse.train):\n{listed}\n\n"
        f"Example:\n  {EXAMPLE}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command, or lists all of them; returns the exit code, which is 2 if the command does not exist."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        put_out(overview())
        return 0
    if arguments[0] == "--version":
        put_out(glimpse.__version__)
        return 0
    word, known = arguments[0], commands()
    if word not in known:
        print(f"glimpse: there is no command {word!r}{suggestion(word, known)}; `glimpse` lists them.", file=sys.stderr)
        return 2
    name = word.replace("-", "_")
    package = (Path(__file__).parent / name).is_dir()
    with suppress(OSError):  # a working folder that is gone
        if os.getcwd() not in sys.path:  # as with python -m: modules of one's own lie there
            sys.path.append(os.getcwd())
    sys.argv = [f"glimpse {word}", *arguments[1:]]
    try:
        with without_collecting():
            module = import_module(f"glimpse.{name}.__main__" if package else f"glimpse.{name}")
        return int(module.main() or 0)
    except KeyboardInterrupt:  # before the command itself could take care of it
        print("glimpse: stopped.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
