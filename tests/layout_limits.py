"""What `make lint` holds of the layout beside the order of rooms: `python tests/layout_limits.py` prints what breaks it.

Files and functions are short, a file name stands once, no room reaches into another's private names, and no module
imports itself by way of others.
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import grimp
import networkx

ROOT = Path(__file__).parents[1]
PACKAGE = "stitching"
MAX_FILE = 400
MAX_FUNCTION = 60
MAX_FUNCTION_IN = {"training": 50}  # the room that is read in one sitting
REPEATED_NAMES = {"__init__.py", "__main__.py"}


def problems(root: Path = ROOT) -> list[str]:
    """A line for each break of a limit in the package below `root`."""
    files = sorted((root / PACKAGE).rglob("*.py"))
    found = [*repeated_names(files, root)]
    for file in files:
        where, text = file.relative_to(root), file.read_text()
        if (lines := text.count("\n")) > MAX_FILE:
            found.append(f"{where}: {lines} lines; at most {MAX_FILE}")
        tree = ast.parse(text)
        found += long_functions(tree, where)
        found += private_imports(tree, where)
    return found


def room_of(where: Path) -> str:
    """The room of a file, from its path `stitching/room/...`; what lies in no room is one by itself."""
    return where.parts[1] if len(where.parts) > 2 else where.stem


def repeated_names(files: list[Path], root: Path) -> Iterator[str]:
    by_name = defaultdict(list)
    for file in files:
        by_name[file.name].append(str(file.relative_to(root)))
    for name, places in by_name.items():
        if len(places) > 1 and name not in REPEATED_NAMES:
            yield f"{' and '.join(places)} have one name"


def long_functions(tree: ast.Module, where: Path) -> Iterator[str]:
    limit = MAX_FUNCTION_IN.get(room_of(where), MAX_FUNCTION)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > limit:
                yield f"{where}:{node.lineno}: {node.name} has {lines} lines; at most {limit}"


def private_imports(tree: ast.Module, where: Path) -> Iterator[str]:
    """Private names of other rooms: imported, or used as an attribute of an imported module."""
    modules: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == PACKAGE:
            for alias in node.names:
                module = f"{node.module}.{alias.name}"
                modules[alias.asname or alias.name] = module
                if _is_private(alias.name) and _room(module) != room_of(where):
                    yield f"{where}:{node.lineno}: {module} is private to its room"
        elif isinstance(node, ast.Import):
            modules |= {alias.asname: alias.name for alias in node.names if alias.asname}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and _is_private(node.attr):
            module = modules.get(node.value.id, "")
            if module.startswith(f"{PACKAGE}.") and _room(module) != room_of(where):
                yield f"{where}:{node.lineno}: {module}.{node.attr} is private to its room"


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def _room(module: str) -> str:
    return module.split(".")[1]


def circles(package: str = PACKAGE) -> list[str]:
    """Modules that import one another in a circle, as lines."""
    graph = grimp.build_graph(package, exclude_type_checking_imports=True, cache_dir=None)
    imports = networkx.DiGraph(
        (module, imported) for module in graph.modules for imported in graph.find_modules_directly_imported_by(module)
    )
    return [
        f"{' -> '.join(sorted(modules))} import one another in a circle"
        for modules in networkx.strongly_connected_components(imports)
        if len(modules) > 1
    ]


if __name__ == "__main__":
    lines = [*problems(), *circles()]
    print(*lines, sep="\n", end="\n" if lines else "")
    sys.exit(bool(lines))
