"""Modules that are imported late."""

import importlib
import sys

import gymnax.environments.misc.pong
import pytest

from purejaxppo._lazy import lazily


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module that tells when it is imported in truth."""
    (tmp_path / "slow_module.py").write_text("import sys\nsys.slow_modules += 1\nvalue = 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "slow_modules", 0, raising=False)
    importlib.invalidate_caches()
    yield "slow_module"
    sys.modules.pop("slow_module", None)


def test_a_late_module_is_imported_when_it_is_used(module):
    with lazily(module):
        import slow_module
    assert sys.slow_modules == 0
    assert module not in sys.modules
    assert slow_module.value == slow_module.value == 3
    assert sys.slow_modules == 1
    with pytest.raises(AttributeError, match="nothing"):
        _ = slow_module.nothing


def test_other_imports_are_as_ever(module):
    with lazily(module):
        pass
    import slow_module

    assert sys.slow_modules == 1
    with lazily(module):
        import slow_module as again
    assert again is slow_module


def test_gymnax_can_still_draw():
    assert len(gymnax.environments.misc.pong.sns.color_palette("cubehelix", 3)) == 3
    assert gymnax.environments.misc.pong.plt.figure is not None
