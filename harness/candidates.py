"""Finds candidates: every entry point of the group ``attest.candidates``, ours included, and plug-in files."""

import fnmatch
import importlib.util
import sys
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

from harness.errors import UsageError, nearest
from optimized.candidate import Candidate

__all__ = ["GROUP", "Found", "find_candidates", "import_plugin", "load_plugin", "select"]

GROUP = "attest.candidates"
_OURS = "optimized.catalogue"


@dataclass(frozen=True, slots=True)
class Found:
    """What is installed.

    Attributes:
        candidates: by name.
        broken: traceback by name of the entry point that does not import.
    """

    candidates: Mapping[str, Candidate]
    broken: Mapping[str, str] = field(default_factory=dict)


def find_candidates(plugin: str | None = None) -> Found:
    """Returns all candidates: ours, those of installed entry points, those of a plug-in file.

    Ours are there from a plain checkout too, where no entry point is installed.

    Args:
        plugin: ``FILE.py`` or ``FILE.py:NAME``; only its candidates are returned then.

    Raises:
        UsageError: two candidates have one name, or the plug-in cannot be used.
    """
    if plugin is not None:
        return Found(candidates=_by_name([(plugin, load_plugin(plugin))]))
    sources: list[tuple[str, Sequence[Candidate]]] = [
        (_OURS, _tuple_of(importlib.import_module(_OURS), "CANDIDATES", _OURS))
    ]
    broken = {}
    for point in sorted(entry_points(group=GROUP), key=lambda each: each.name):
        if point.module == _OURS:
            continue
        try:
            sources.append((point.value, _checked(point.load(), point.value)))
        except (Exception, SystemExit):
            broken[point.name] = traceback.format_exc()
    return Found(candidates=_by_name(sources), broken=broken)


def load_plugin(plugin: str) -> Sequence[Candidate]:
    """Returns the candidates of a plug-in file.

    Args:
        plugin: ``FILE.py``, whose ``CANDIDATES`` is taken, or ``FILE.py:NAME``, another variable or one candidate's
            name.

    Raises:
        UsageError: there is no such file, it does not import, or holds no candidates.
    """
    path_text, _, wanted = plugin.partition(".py:")
    path = Path(path_text if not wanted else f"{path_text}.py")
    if not path.is_file():
        raise UsageError(f"--plugin: got {plugin!r}, expected the path of a Python file, or FILE.py:NAME")
    module = import_plugin(path)
    if wanted and not hasattr(module, wanted):
        named = [item for item in _tuple_of(module, "CANDIDATES", plugin) if item.name == wanted]
        if not named:
            raise UsageError(f"--plugin: {path} has neither a variable nor a candidate {wanted!r}")
        return named
    return _tuple_of(module, wanted or "CANDIDATES", plugin)


def select(found: Found, *, op: str | None, names: Sequence[str] | None) -> list[Candidate]:
    """Returns the candidates of an operation, or the named ones among them.

    Args:
        found: what is installed.
        op: the operation; None means all.
        names: names or patterns of the shell, ``"triton-*"``; None means all.

    Raises:
        UsageError: a name or a pattern stands for nothing, or for another operation, or nothing is left.
    """
    chosen = [item for item in found.candidates.values() if op is None or item.op == op]
    if names:
        matching = dict.fromkeys(name for pattern in names for name in _matching(pattern, found, chosen, op))
        chosen = [found.candidates[name] for name in matching]
    if not chosen:
        offered = sorted({item.op for item in found.candidates.values()})
        hint = nearest(str(op), offered)
        raise UsageError(f"no candidate for operation {op!r}: there are candidates for {', '.join(offered)}{hint}")
    return chosen


def _matching(pattern: str, found: Found, chosen: Sequence[Candidate], op: str | None) -> list[str]:
    """Returns the names among ``chosen`` that a pattern stands for, at least one."""
    names = fnmatch.filter([item.name for item in chosen], pattern)
    if names:
        return names
    if op is not None and pattern in found.candidates:
        raise UsageError(f"--candidate: {pattern!r} computes {found.candidates[pattern].op}, expected one for {op}")
    known = sorted(item.name for item in chosen) or sorted(found.candidates)
    raise UsageError(f"--candidate: got {pattern!r}, expected one of {', '.join(known)}{nearest(pattern, known)}")


def import_plugin(path: Path, *, option: str = "--plugin") -> ModuleType:
    """Returns the module of a plug-in file.

    Args:
        path: the file.
        option: by which it was named, for the sentence.

    Raises:
        UsageError: it does not import.
    """
    name = f"attest_plugin_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{option}: {path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    _find_package_of(path)
    # Triton reads a kernel's source through its module, and dataclasses look their module up by name.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise UsageError(f"{option}: {path} does not import ({type(error).__name__}: {error})") from error
    return module


def _find_package_of(path: Path) -> None:
    """Makes the package that a plug-in lies in importable, as running the file from its root would."""
    folder = path.resolve().parent
    if not (folder / "__init__.py").is_file():
        return
    while (folder / "__init__.py").is_file():
        folder = folder.parent
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def _tuple_of(module: ModuleType, name: str, source: str) -> Sequence[Candidate]:
    if not hasattr(module, name):
        raise UsageError(f"plug-in {source}: got no {name}, expected a tuple of Candidate of that name")
    return _checked(getattr(module, name), source)


def _checked(value: object, source: str) -> Sequence[Candidate]:
    items = (value,) if isinstance(value, Candidate) else value
    if not isinstance(items, tuple | list) or not all(isinstance(item, Candidate) for item in items):
        raise UsageError(f"plug-in {source}: got {type(value).__name__}, expected a tuple of Candidate")
    return items


def _by_name(sources: Iterable[tuple[str, Sequence[Candidate]]]) -> dict[str, Candidate]:
    result: dict[str, Candidate] = {}
    origin: dict[str, str] = {}
    for source, items in sources:
        for item in items:
            if item.name in result:
                raise UsageError(
                    f"candidate {item.name!r}: got it from {source} as well as from {origin[item.name]}, expected one"
                )
            result[item.name] = item
            origin[item.name] = source
    return result
