"""A user's own Python files, named in a config: `module: my_models.py:make_net`, `plugins: [my_parts.py]`.

A file is run once for each version of its content, in a package named after that content: two versions can be loaded
side by side, and `sys.path` is not changed. The modules that it imports from its own folder are read from its source,
so that the digest covers them all and is known without running anything.
"""

from __future__ import annotations

import ast
import builtins
import hashlib
import importlib
import importlib.util
import keyword
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.abc import InspectLoader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from stitching.config.errors import UserError, reason_of
from stitching.config.paths import check_regular_file, resolved_path

__all__ = [
    "UserCode", "error_in_user_code", "load_user_code", "resolved_code", "user_code_digest", "user_code_files",
]  # fmt: skip

_ROOT = "stitching_user_code"  # the package of all modules loaded from files
_NEVER_BESIDE = {"stitching", *sys.stdlib_module_names}  # these are never files of the user's folder


@dataclass(frozen=True)
class UserCode:
    """An imported module of a user's.

    Attributes:
        module: the module.
        digest: 12 hexadecimal digits of the hash of its source and of what it imports from its folder.
        path: its file.
        files: its file and those that it imports from its folder, by their names in tracebacks (the path at which a
            file of this content was first imported).
    """

    module: ModuleType
    digest: str
    path: Path
    files: Mapping[str, Path]


@dataclass(frozen=True)
class _Sources:
    """A module's file and those that it imports from its folder, by their dotted names from their common folder."""

    main: str
    folder: Path
    files: Mapping[str, Path]
    contents: Mapping[str, bytes]

    @property
    def digest(self) -> str:
        digest = hashlib.sha256()
        labelled = {name if name != self.main else "": content for name, content in self.contents.items()}
        for label in sorted(labelled):  # the file's own name changes nothing
            digest.update(f"{label}\n{len(labelled[label])}\n".encode() + labelled[label])
        return digest.hexdigest()[:12]


def load_user_code(name: str, folder: Path) -> UserCode:
    """Import the module that a config names, unless this content of it has been imported already.

    Args:
        name: a .py file, relative to `folder` or absolute; or the dotted name of an installed module.
        folder: the config's folder.

    Raises:
        UserError: it does not exist, is no Python, or raises on import; names its file and line.
    """
    sources = _sources(name, folder)
    path, files = sources.files[sources.main], {str(path): path for path in sources.files.values()}
    try:
        if _is_file(name):
            files |= _serve(sources)
            name = f"{_package(sources)}.{sources.main}"
        module = importlib.import_module(name)
    except (Exception, SystemExit) as error:  # a user's code may raise anything
        raise _user_error(error, path, files, "exits while it is imported") from None
    return UserCode(module, sources.digest, path, files)


def resolved_code(name: str, folder: Path) -> str:
    """The name of the same code for any folder: an absolute path, or a dotted name unchanged.

    Raises:
        UserError: it is no valid path.
    """
    return str(resolved_path(name, folder)) if _is_file(name) else name


def user_code_digest(name: str, folder: Path) -> str:
    """The digest of the code that a config names, without running it; raises as `load_user_code` does."""
    return _sources(name, folder).digest


def user_code_files(name: str, folder: Path) -> tuple[str, dict[str, bytes]]:
    """The digest of a config's code, and the contents of all its files by their paths from their common folder.

    Both are of one reading. Nothing is run; raises as `load_user_code` does.
    """
    sources = _sources(name, folder)
    return sources.digest, {
        path.relative_to(sources.folder).as_posix(): sources.contents[module]
        for module, path in sources.files.items()
    }  # fmt: skip


def _is_file(name: str) -> bool:
    return name.endswith(".py")


def _sources(name: str, folder: Path) -> _Sources:
    if _is_file(name):
        path = resolved_path(name, folder)
        main, tops = path.stem.replace(".", "_"), None
    else:
        if not all(part.isidentifier() and not keyword.iskeyword(part) for part in name.split(".")):
            raise UserError(
                f"{name!r} names no Python code",
                allowed="a file such as my_models.py, or the dotted name of an installed module",
            )
        main, tops = name, {name.split(".")[0]}
        path = _installed(name)
    root = path.parent if tops is None else _folder_above(path, name)
    files: dict[str, Path] = {}
    contents: dict[str, bytes] = {}
    open_names = [(main, path)]
    while open_names:
        module, file = open_names.pop()
        if module in files:
            continue
        contents[module], imports = _read(file)
        files[module] = file
        package = module if file.name == "__init__.py" else module.rpartition(".")[0]
        for imported in _absolute(imports, package):
            top = imported.split(".")[0]
            if (top in tops) if tops else (top not in _NEVER_BESIDE):
                open_names += _files_of(imported, root)
    return _Sources(main, root, files, contents)


def _installed(name: str) -> Path:
    """The file of an installed module."""
    try:
        spec = importlib.util.find_spec(name)  # imports the packages that it lies in
    except (Exception, SystemExit) as error:
        raise UserError(f"the module {name!r} cannot be found: {reason_of(error)}") from None
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        raise UserError(
            f"there is no Python module {name!r} installed",
            allowed="a file such as my_models.py, or the dotted name of an installed module",
        )
    return Path(spec.origin)


def _folder_above(path: Path, name: str) -> Path:
    """The folder that the outermost package of a module's dotted name lies in."""
    depth = name.count(".") + (path.name == "__init__.py")
    return path.parents[depth]


def _read(path: Path) -> tuple[bytes, tuple[tuple[int, str], ...]]:
    """A file's content, and what it imports as (level, dotted name)."""
    status = check_regular_file(path)
    return _read_version(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=256)
def _read_version(path: Path, _modified: int, _size: int) -> tuple[bytes, tuple[tuple[int, str], ...]]:
    try:
        content = path.read_bytes()
        tree = ast.parse(content, str(path))
    except SyntaxError as error:
        raise UserError(f"{path}:{error.lineno or 1}: SyntaxError: {error.msg}") from None
    except Exception as error:  # no permission, null bytes, nested too deeply
        raise UserError(f"{path} cannot be read as Python: {reason_of(error)}") from None
    imports: dict[tuple[int, str], None] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imports.update({(0, alias.name): None for alias in node.names})
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            imports[node.level, module] = None
            imports.update({(node.level, f"{module}.{alias.name}".strip(".")): None for alias in node.names})
    return content, tuple(imports)


def _absolute(imports: Sequence[tuple[int, str]], package: str) -> Iterator[str]:
    """Imported names, from the common folder, for a module of `package` ("": in that folder itself)."""
    for level, name in imports:
        parts = package.split(".") if package else []
        if level > len(parts) + 1:
            continue  # beyond the folder: Python says so
        base = parts[: len(parts) - level + 1] if level else []
        if absolute := ".".join([*base, *([name] if name else [])]):
            yield absolute


def _files_of(name: str, root: Path) -> Iterator[tuple[str, Path]]:
    """The files below `root` that importing a dotted name runs, each by its own dotted name."""
    parts = name.split(".")
    for depth in range(1, len(parts) + 1):
        base = root.joinpath(*parts[:depth])
        for path in (base / "__init__.py", base.with_name(f"{base.name}.py")):
            if path.is_file():
                yield ".".join(parts[:depth]), path
                break


class _Loader(InspectLoader):
    """Runs a module from the source behind its package's digest."""

    def __init__(self, path: str, content: bytes, beside: frozenset[str], is_package: bool) -> None:
        self.path, self.content, self.beside, self._is_package = path, content, beside, is_package

    def is_package(self, fullname: str) -> bool:
        return self._is_package

    def get_source(self, fullname: str) -> str:
        return importlib.util.decode_source(self.content)

    def exec_module(self, module: ModuleType) -> None:
        package = ".".join(module.__name__.split(".")[:2])

        def import_beside(
            name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0
        ) -> ModuleType:
            """`import my_layers` means the file beside this one."""
            top = name.split(".")[0]
            if level or top not in self.beside:
                return builtins.__import__(name, globals, locals, fromlist, level)
            leaf = builtins.__import__(f"{package}.{name}", globals, locals, fromlist or ("__name__",), 0)
            return leaf if fromlist else sys.modules[f"{package}.{top}"]

        module.__dict__["__builtins__"] = {**vars(builtins), "__import__": import_beside}
        exec(compile(self.content, self.path, "exec", dont_inherit=True), module.__dict__)


class _Finder(MetaPathFinder):
    """Finds modules loaded from users' files, by the names that `_serve` registers."""

    def __init__(self) -> None:
        self.loaders: dict[str, _Loader] = {}

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        loader = self.loaders.get(fullname)
        if loader is None:
            return None
        spec = importlib.util.spec_from_loader(fullname, loader, origin=loader.path, is_package=loader._is_package)
        if spec is not None:
            spec.has_location = bool(loader.path)  # gives the module its __file__
        return spec


_FINDER = _Finder()


def _package(sources: _Sources) -> str:
    return f"{_ROOT}.h{sources.digest}"


def _serve(sources: _Sources) -> dict[str, Path]:
    """Make a file and its imports importable; returns the files by their names in tracebacks."""
    if _FINDER not in sys.meta_path:
        sys.meta_path.append(_FINDER)
    package = _package(sources)
    names = [name for name in sources.files if name != sources.main]
    beside = frozenset(name.split(".")[0] for name in names)
    parents = {".".join(name.split(".")[:depth]) for name in names for depth in range(1, name.count(".") + 1)}
    folders = [_ROOT, package, *(f"{package}.{name}" for name in parents - sources.files.keys())]
    for name in folders:  # of these, folders without an __init__.py
        _FINDER.loaders.setdefault(name, _Loader("", b"", frozenset(), is_package=True))
    for name, path in sources.files.items():
        is_package = path.name == "__init__.py" and name != sources.main
        loader = _Loader(str(path), sources.contents[name], beside, is_package)
        _FINDER.loaders.setdefault(f"{package}.{name}", loader)
    return {_FINDER.loaders[f"{package}.{name}"].path: path for name, path in sources.files.items()}


def error_in_user_code(error: BaseException, code: UserCode) -> UserError:
    """An exception that a function of a user's raised, with the line of their code that was running."""
    return _user_error(error, code.path, code.files, "exits")


def _user_error(error: BaseException, path: Path, files: Mapping[str, Path], exit_words: str) -> UserError:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in files]
    where = f"{files[frames[-1].filename]}:{frames[-1].lineno}" if frames else str(path)
    if isinstance(error, SyntaxError) and error.filename:
        where = f"{error.filename}:{error.lineno or 1}"
    if isinstance(error, UserError):  # of ours, such as a name that is registered twice
        return UserError(f"{where}: {error.problem}", allowed=error.allowed, do=error.do)
    if isinstance(error, SystemExit):
        return UserError(f"{where}: {exit_words} ({error.code!r})")
    words = reason_of(error)
    kind = type(error).__name__
    return UserError(f"{where}: {words if words.startswith(kind) else f'{kind}: {words}'}")
