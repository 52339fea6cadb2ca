"""Doing something around the import of another package, whoever imports it and whenever."""

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

Context = Callable[[], AbstractContextManager[None]]


def around_import(name: str, context: Context) -> None:
    """Have a top-level module imported within a context manager, once or, reloaded, again.

    Nothing happens to a module that is imported already. The finder stays where it is: an import
    of another thread may be going through the list of finders.

    Args:
        name: of the module.
        context: a function that makes the context manager. What it raises fails the import.
    """
    finder = _Finder(name, context)
    if finder not in sys.meta_path:
        sys.meta_path.insert(0, finder)


class _Finder:
    """Finds one module as the finders behind it do, and has it loaded within the context."""

    def __init__(self, name: str, context: Context) -> None:
        self.name = name
        self.context = context

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Finder) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]  # as Python's documentation says it

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != self.name:
            return None
        finders = list(sys.meta_path)
        for finder in finders[finders.index(self) + 1 :]:
            find = getattr(finder, "find_spec", None)  # import leaves those without it out
            spec = find and find(name, path, target)
            if spec is not None:
                if spec.loader is not None:  # a folder without __init__.py has none
                    spec.loader = _Loader(spec.loader, self.context)
                return spec
        return None


class _Loader:
    """A module's own loader, within the context."""

    def __init__(self, loader: Loader, context: Context) -> None:
        self.loader = loader
        self.context = context

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None  # the import made the module of it
        # The module is to look as it does without this.
        module.__loader__ = module.__spec__.loader = self.loader
        with self.context():
            self.loader.exec_module(module)
