"""Something around the import of a module."""

import importlib
import sys
import threading
from contextlib import contextmanager

import pytest

from keras_squeezenet.startup.imports import around_import

NAME = "a_module_of_a_test"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of modules to import; what was imported and installed is taken away again."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith(NAME)]:
        del sys.modules[name]


@pytest.fixture
def events():
    return []


@pytest.fixture
def noting(events):
    @contextmanager
    def noting():
        events.append("before")
        try:
            yield
        finally:
            events.append(f"after, initialized: {hasattr(sys.modules.get(NAME), 'value')}")

    return noting


def test_a_module_and_a_package_are_imported_within(folder, events, noting):
    (folder / NAME).mkdir()
    (folder / NAME / "__init__.py").write_text("value = 1")
    (folder / NAME / "part.py").write_text("")
    around_import(NAME, noting)
    importlib.import_module(f"{NAME}.part")
    assert events == ["before", "after, initialized: True"]
    assert type(sys.modules[NAME].__spec__.loader) is type(
        importlib.import_module("ast").__loader__
    )
    importlib.import_module(NAME)
    assert len(events) == 2
    importlib.reload(sys.modules[NAME])
    assert events == ["before", "after, initialized: True"] * 2


def test_two_contexts_and_one_asked_for_twice(folder, events, noting):
    (folder / f"{NAME}.py").write_text("value = 1")

    @contextmanager
    def another():
        events.append("another")
        yield

    for context in (noting, another, noting):
        around_import(NAME, context)
    importlib.import_module(NAME)
    assert events == ["another", "before", "after, initialized: True"]


def test_an_import_that_fails_says_so_and_may_be_tried_again(folder, events, noting):
    (folder / f"{NAME}.py").write_text("raise ImportError('the reason')")
    around_import(NAME, noting)
    with pytest.raises(ImportError, match="the reason"):
        importlib.import_module(NAME)
    assert events == ["before", "after, initialized: False"]
    (folder / f"{NAME}.py").write_text("value = 1  # good")
    importlib.invalidate_caches()
    assert importlib.import_module(NAME).value == 1


def test_a_module_that_is_missing_and_a_folder_without_init(folder, noting):
    around_import(NAME, noting)
    assert importlib.util.find_spec(NAME) is None
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module(NAME)
    (folder / NAME).mkdir()
    importlib.invalidate_caches()
    assert importlib.import_module(NAME).__path__


def test_threads_wait_for_the_end_of_the_context(folder, events):
    (folder / f"{NAME}.py").write_text("value = 1")
    loaded, go = threading.Event(), threading.Event()

    @contextmanager
    def slow():
        yield
        loaded.set()
        assert go.wait(60)
        events.append("the context ends")

    def import_it():
        importlib.import_module(NAME)
        events.append("imported")

    around_import(NAME, slow)
    threads = [threading.Thread(target=import_it) for _ in range(2)]
    threads[0].start()
    assert loaded.wait(60)
    threads[1].start()
    threads[1].join(0.1)
    go.set()
    for thread in threads:
        thread.join(60)
    assert events == ["the context ends", "imported", "imported"]
