"""Import gymnax without the packages that it only draws with: they would take half of our import time.

Imported first, by `purejaxppo/__init__.py`.
"""

import contextlib
import importlib
import sys
import types
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def lazily(*names: str) -> Iterator[None]:
    """Import these modules lazily in this block, on first attribute access; all others as usual."""
    absent = {name: _lazy_module(name) for name in names if name not in sys.modules}
    sys.modules.update(absent)
    try:
        yield
    finally:
        for name in [name for name, module in absent.items() if sys.modules.get(name) is module]:
            del sys.modules[name]


def _lazy_module(name: str) -> types.ModuleType:
    def attribute(attribute_name: str) -> Any:
        return getattr(importlib.import_module(name), attribute_name)

    module = types.ModuleType(name)
    module.__dict__["__getattr__"] = attribute  # as in PEP 562
    return module


with lazily("seaborn", "matplotlib.pyplot"):
    import gymnax  # noqa: F401
