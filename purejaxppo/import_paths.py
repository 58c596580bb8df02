"""Classes and functions of the user's modules by name, such as "my_package.envs:Depot".

A file can make nothing be imported or called that the user did not choose: a module must be named by the user, or for a
class be imported already; and what is named must be an environment, a network or a function where one is expected.
"""

import importlib
import sys
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
from gymnax.environments.environment import Environment as GymnaxEnvironment

from purejaxppo.errors import ConfigError
from purejaxppo.networks import Network

# What a class must derive from, by the field that holds its object.
KINDS: dict[str, tuple[type, ...]] = {"env": (GymnaxEnvironment,), "network": (nn.Module, Network)}


def is_path(text: Any) -> bool:
    """Whether it is of the form `module:name`."""
    module, colon, name = text.partition(":") if isinstance(text, str) else ("", "", "")
    return bool(colon) and name.isidentifier() and all(part.isidentifier() for part in module.split("."))


def path_of(field: str, value: Any) -> str:
    """`module:name` of a class or a function.

    Raises:
        ConfigError: it could not be imported again from there.
    """
    module, name = str(value.__module__), str(value.__qualname__)
    if module == "__main__" or getattr(sys.modules.get(module), name, None) is not value:
        what = f"{name} of {module}"
        why = "could not be imported again: move it to the top level of a module of its own, and import it from there"
        raise ConfigError(f"{field}={what}: {why}")
    return f"{module}:{name}"


def find(field: str, path: str, imports: Sequence[str] = ()) -> Any:
    """The class or function that a file names for a field.

    Args:
        field: which is to hold it, or an object of it.
        path: `module:name`.
        imports: modules that the user has named, which are imported if need be.

    Raises:
        ConfigError: the user did not choose the module, it cannot be imported, or what is named is not of a kind that
            the field can hold.
    """
    module, _, name = path.partition(":")
    if module in _names(imports):
        _import(field, module)
    elif sys.modules.get(module) is None or field not in KINDS:
        why = f"names the module {module}, which is not imported for a file alone"
        how = f"imports=[{module!r}] does that, on the command line --import {module}"
        raise ConfigError(f"{field}={path!r}: {why}; {how}")
    value = vars(sys.modules[module]).get(name)  # not getattr: it may run code
    if field in KINDS:
        if not (isinstance(value, type) and issubclass(value, KINDS[field])):
            allowed = " or ".join(f"{kind.__module__.partition('.')[0]}'s {kind.__name__}" for kind in KINDS[field])
            raise ConfigError.of(field, path, f"a class derived from {allowed}")
    elif isinstance(value, type) or not callable(value):
        raise ConfigError.of(field, path, "a function")
    return value


def import_all(field: str, imports: Sequence[str]) -> None:
    """Import the modules that the user has named, which may register what the field names.

    Raises:
        ConfigError: one cannot be imported.
    """
    for module in _names(imports):
        _import(field, module)


def _names(imports: Sequence[str]) -> Sequence[str]:
    return (imports,) if isinstance(imports, str) else imports


def _import(field: str, module: str) -> None:
    """Import a module that the user has named.

    Raises:
        ConfigError: it cannot be imported.
    """
    try:
        importlib.import_module(module)
    except Exception as error:  # whatever an author's code raises while it is imported
        raise ConfigError(f"{field}: the module {module} cannot be imported ({error!r})") from None
