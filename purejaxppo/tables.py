"""Settings as tables of plain values, as TOML and JSON have them.

An environment or a network that is an object is a table with a `type`: one of ours by its name ("GridWorld", "mlp"),
one of the user's by its import path ("my_package.envs:Depot"), and its fields. A function is its import path.
"""

import dataclasses
import tomllib
from collections.abc import Mapping, Sequence
from types import FunctionType
from typing import Any

import jax
import numpy as np
import tomli_w

from purejaxppo import environments, import_paths
from purejaxppo.config import Config
from purejaxppo.environments import GridWorld, RandomGridWorld, TokenTree, maps
from purejaxppo.errors import ConfigError, unknown_name
from purejaxppo.networks import NETWORKS
from purejaxppo.settings import Settings, check_kind

# Our classes of which a file can hold an object, by field and `type`.
TYPES: dict[str, dict[str, Any]] = {
    "env": {"GridWorld": GridWorld, "RandomGridWorld": RandomGridWorld, "TokenTree": TokenTree},
    "network": {**NETWORKS},
}
NOT_FIELDS = ("parent", "name")  # of every flax module


def loads(text: str, kind: type[Any] = Config, *, imports: Sequence[str] = (), may_name_files: bool = True) -> Any:
    """The settings that a TOML text holds.

    Args:
        text: TOML.
        kind: the class of settings.
        imports: modules of the user that the text may name, see `import_paths`.
        may_name_files: whether a map may be that of a file; otherwise the text must hold it.

    Raises:
        ConfigError: it is not TOML, or a field in it cannot be used.
    """
    check_kind("text", text, str)
    try:
        values = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"config: cannot be read as TOML ({error})") from None
    return from_table(values, kind, imports=imports, may_name_files=may_name_files)


def dumps(settings: Settings) -> str:
    """The settings as TOML, from which `loads` makes equal ones.

    Raises:
        ConfigError: a field is an array, or an object that could not be made again from a file.
    """
    return tomli_w.dumps(to_table(settings), multiline_strings=True)


def from_table(
    table: Mapping[str, Any], kind: type[Any] = Config, *, imports: Sequence[str] = (), may_name_files: bool = True
) -> Any:
    """The settings of a table, as `to_table` gives it; see `loads`.

    Raises:
        ConfigError: a field in it cannot be used.
    """
    check_kind("table", table, Mapping)
    if not may_name_files:
        _check_no_path(table.get("env"))
    values = to_objects(table, imports=imports)
    if isinstance(values.get("env_params"), dict):
        env = environments.make(environments.resolve(values.get("env", Config.env)))
        environments.check_supported(env, None)
        values["env_params"] = environments.replaced_params(env.default_params, values["env_params"])
    return kind(**values)


def _check_no_path(env: Any) -> None:
    """Refuse a map that is in another file.

    Raises:
        ConfigError: it is.
    """
    layout = env.get("layout", "") if isinstance(env, dict) else env
    is_map = isinstance(env, dict) or (isinstance(env, str) and env.endswith(".txt") and env not in environments.ids())
    if is_map and (not isinstance(layout, str) or maps.is_path(layout)):
        raise ConfigError.of("env.layout", layout, "a map's text: what was written names no other files")


def to_table(settings: Settings) -> dict[str, Any]:
    """The settings as a table of plain values; a field that is None is not in it.

    Raises:
        ConfigError: a field is an array, or an object that could not be made again from a file.
    """
    check_kind("settings", settings, Settings)
    fields = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}  # type: ignore[arg-type]
    params = fields.pop("env_params", None)
    table = {name: _plain(name, value) for name, value in fields.items() if value is not None}
    if params is not None:
        table["env_params"] = _params_table(params, environments.make(fields["env"]).default_params)
    return table


def to_objects(table: Mapping[str, Any], *, imports: Sequence[str] = ()) -> dict[str, Any]:
    """The fields of a table, with environments, networks and functions in place of their descriptions.

    Raises:
        ConfigError: one cannot be made.
    """
    return {name: _object(name, value, imports) for name, value in table.items()}


def _object(name: str, value: Any, imports: Sequence[str]) -> Any:
    if isinstance(value, dict) and name in TYPES:
        return _of_type(name, dict(value), imports)
    if import_paths.is_path(value):
        found = import_paths.find(name, value, imports)
        return _of_type(name, {"type": value}, imports) if name in TYPES else found
    if name == "env" and isinstance(value, str) and value not in environments.ids():
        import_paths.import_all(name, imports)  # one of them may register it
    return _hashable(value)


def _of_type(name: str, table: dict[str, Any], imports: Sequence[str]) -> Any:
    """The object of a table with a `type`."""
    type_name = table.pop("type", None)
    if import_paths.is_path(type_name):
        kind = import_paths.find(name, type_name, imports)
    elif isinstance(type_name, str) and type_name in TYPES[name]:
        kind = TYPES[name][type_name]
    else:
        allowed = f"one of {', '.join(map(repr, TYPES[name]))}, or of the form 'module:Class'"
        raise ConfigError.of(f"{name}.type", type_name, allowed)
    fields = {field.name: field for field in own_fields(kind)} if dataclasses.is_dataclass(kind) else {}
    for own, value in table.items():
        if own not in fields:
            raise unknown_name(f"{type_name} field", own, list(fields) or ["(it has none)"])
        if import_paths.is_path(value) and isinstance(fields[own].default, FunctionType):
            table[own] = import_paths.find(f"{name}.{own}", value, imports)
        else:
            _check_type(f"{name}.{own}", value, fields[own].default)
    try:
        return kind(**{own: _hashable(value) for own, value in table.items()})
    except TypeError as error:
        raise ConfigError(f"{name}: {type_name} cannot be made of these fields ({error})") from None


def _check_type(name: str, value: Any, default: Any) -> None:
    """Refuse a value of another type than the default; an integer is a number as well."""
    if default is None or default is dataclasses.MISSING or (type(default) is float and type(value) is int):
        return
    expected = list if isinstance(default, tuple) else type(default)
    if type(value) is not expected:
        raise ConfigError.of(name, value, f"of type {expected.__name__}")


def _hashable(value: Any) -> Any:
    return tuple(map(_hashable, value)) if isinstance(value, list) else value


def _plain(name: str, value: Any) -> Any:
    """A field's value as a file has it."""
    if isinstance(value, np.generic | np.ndarray | jax.Array) and value.ndim == 0:
        value = value.item()
    if isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple | list):
        return [_plain(name, item) for item in value]
    if name in TYPES:
        return _type_table(name, value)
    if callable(value) and hasattr(value, "__qualname__"):
        return import_paths.path_of(name, value)
    raise ConfigError.of(name, value, "a single number, word or switch, to be written to a file")


def _type_table(name: str, value: Any) -> dict[str, Any]:
    """An environment or a network that is an object, as a table."""
    kind = type(value)
    if not dataclasses.is_dataclass(value):
        raise ConfigError.of(name, value, "an id or a frozen dataclass, to be written to a file")
    ours = [own for own, other in TYPES[name].items() if other is kind]
    table = {"type": ours[0] if ours else import_paths.path_of(name, kind)}
    for field in own_fields(value):
        own = getattr(value, field.name)
        is_plain = isinstance(own, bool | int | float | str | tuple | list)
        if not is_plain and own is field.default:
            continue  # None, a dtype, an activation: the class knows it
        if not (is_plain or isinstance(own, FunctionType)):
            raise ConfigError.of(f"{name}.{field.name}", own, "a number, a word, a switch or a sequence of such")
        table[field.name] = _plain(f"{name}.{field.name}", own)
    return table


def _params_table(params: Any, default: Any) -> dict[str, Any]:
    """Parameters of an environment as a table; arrays, such as Acrobot's torques, only as they are by default."""
    table = {}
    for name, value in environments.named_params(params).items():
        normal = getattr(default, name)
        is_nothing = value is None and normal is None
        is_usual_array = np.ndim(value) > 0 and np.array_equal(value, normal)
        if not (is_nothing or is_usual_array):
            table[name] = _plain(f"env_params.{name}", value)
    return table


def own_fields(value: Any) -> list[dataclasses.Field[Any]]:
    """The fields that a dataclass is made of, without those that every flax module has."""
    return [field for field in dataclasses.fields(value) if field.init and field.name not in NOT_FIELDS]
