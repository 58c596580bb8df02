"""gymnax, imported without the packages that it only draws with: they would take half of our import time.

Imported first, by `purejaxppo/__init__.py`.
"""

import contextlib
import importlib
import sys
import types
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def late(*names: str) -> Iterator[None]:
    """Modules that are imported in this block are imported in truth when something of them is first used.

    Those that are imported already, and imports outside of the block, are as ever.
    """
    absent = {name: _late_module(name) for name in names if name not in sys.modules}
    sys.modules.update(absent)
    try:
        yield
    finally:
        for name in [name for name, module in absent.items() if sys.modules.get(name) is module]:
            del sys.modules[name]


def _late_module(name: str) -> types.ModuleType:
    def attribute(attribute_name: str) -> Any:
        return getattr(importlib.import_module(name), attribute_name)

    module = types.ModuleType(name)
    module.__dict__["__getattr__"] = attribute  # as in PEP 562
    return module


with late("seaborn", "matplotlib.pyplot"):
    import gymnax  # noqa: F401
