"""Triton's interpreter without the work that it repeats: the same arithmetic in two thirds of the time.

Before a launch the interpreter replaces the functions of ``triton.language`` by its own, and does so again at every
call of a device function inside the launch, where they are replaced already. To know what to replace it looks at
every attribute of the language each time. Here the attributes are looked up once in a process, and once in a launch
is enough. What is computed, and by which functions, stays as it is.

Triton's names for this are private. Where one of them is missing, its interpreter stays as it came.
"""

import inspect
import sys
from collections.abc import Callable, Hashable
from types import ModuleType
from typing import Any

__all__ = ["quicken"]

_NEEDED = ("GridExecutor", "_patch_attr", "_patch_builtin", "_patch_lang", "tl")
_DONE = "_attest_quickened"


def quicken() -> None:
    """Makes the interpreter of this process quick; does nothing where Triton is not loaded, or the second time."""
    interpreter = sys.modules.get("triton.runtime.interpreter")
    if interpreter is None or hasattr(interpreter, _DONE) or not all(hasattr(interpreter, name) for name in _NEEDED):
        return
    setattr(interpreter, _DONE, True)
    interpreter._patch_builtin = _looked_up_once(interpreter)  # type: ignore[attr-defined]  # a module takes any
    launches: list[set[Hashable]] = []
    interpreter._patch_lang = _once_in_a_launch(interpreter, launches)  # type: ignore[attr-defined]
    executor = interpreter.GridExecutor
    call = executor.__call__

    def launched(self: object, *args: object, **options: object) -> object:
        launches.append(set())
        try:
            return call(self, *args, **options)
        finally:
            launches.pop()

    executor.__call__ = launched


def _looked_up_once(interpreter: ModuleType) -> Callable[..., None]:
    """Returns ``_patch_builtin``, which replaces the builtins of a part of the language."""
    is_builtin, patch = interpreter.tl.core.is_builtin, interpreter._patch_attr
    found: dict[int, list[tuple[str, Any]]] = {}

    def patch_builtin(part: Any, builder: object, scope: object) -> None:  # noqa: ANN401 - a module or a class
        if id(part) not in found:
            members = [(name, member) for name, member in inspect.getmembers(part) if is_builtin(member)]
            found[id(part)] = members
        for name, member in found[id(part)]:
            if getattr(part, name) is member:  # else it is replaced already
                patch(part, name, member, builder, scope)

    return patch_builtin


def _once_in_a_launch(interpreter: ModuleType, launches: list[set[Hashable]]) -> Callable[[Any], object]:
    """Returns ``_patch_lang``, which replaces what the function's module sees of the language."""
    patch, language = interpreter._patch_lang, interpreter.tl
    seen: dict[Any, Hashable] = {}

    def patch_lang(function: Any) -> object:  # noqa: ANN401 - a kernel or a device function
        if function not in seen:
            modules = [item for item in function.__globals__.values() if isinstance(item, ModuleType)]
            seen[function] = frozenset(id(item) for item in modules if item in (language, language.core))
        if launches and seen[function] in launches[-1]:
            return None  # a device function, whose caller drops the result
        if launches:
            launches[-1].add(seen[function])
        return patch(function)

    return patch_lang
