"""Change fields of settings by name, those of their environment's parameters and of their network included."""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

import flax.linen as nn

from purejaxppo import environments
from purejaxppo.errors import ConfigError, unknown_name
from purejaxppo.settings import Settings
from purejaxppo.tables import own_fields

S = TypeVar("S", bound=Settings)


def override(settings: S, changes: Mapping[str, Any]) -> S:
    """The settings with some fields changed, as in `{"lr": 1e-3, "network.hidden_sizes": (8,)}`.

    A whole field changes before the fields within it; another environment starts from its own default parameters.

    Raises:
        ConfigError: a field is unknown, or its value is not allowed.
    """
    whole = {name: value for name, value in changes.items() if "." not in name}
    if "env" in whole and environments.resolve(whole["env"]) != getattr(settings, "env", None):
        whole = {"env_params": None} | whole
    result = settings.replace(**whole)
    names = [field.name for field in own_fields(settings)]
    for name in dict.fromkeys(name.partition(".")[0] for name in changes if "." in name):
        if name not in names:
            raise unknown_name(f"{type(settings).__name__} field", name, names)
        within = {key.partition(".")[2]: value for key, value in changes.items() if key.startswith(f"{name}.")}
        result = result.replace(**{name: _replaced(result, name, within)})
    return result


def _replaced(settings: Any, name: str, changes: Mapping[str, Any]) -> Any:
    """An object within the settings with some of its fields changed."""
    value = getattr(settings, name)
    if name == "env_params":
        default = environments.make(settings.env).default_params
        return environments.replaced_params(default if value is None else value, changes)
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        raise ConfigError.of(name, value, f"an object with fields, to change {name}.{next(iter(changes))}")
    names = [field.name for field in own_fields(value)]
    for own in changes:
        if own not in names:
            raise unknown_name(f"{type(value).__name__} field", own, names)
    if isinstance(value, nn.Module):
        return value.clone(**changes)
    return dataclasses.replace(value, **changes)
