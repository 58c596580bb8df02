"""Declared settings: frozen dataclasses whose fields say whether they are static or traced, and what they allow.

A *static* field shapes the program (a size, a switch): a new value compiles anew. A *traced* field is data (a
learning rate): a new value reuses the program, and `jax.vmap` can map over it. Settings of the host, which no program
reads, are static as well.
"""

import dataclasses
import numbers
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple, Self, dataclass_transform

import jax
import numpy as np
from jax import Array

from purejaxppo.errors import ConfigError, unknown_name

Number = float | Array  # of a traced field


class Constraint(NamedTuple):
    """The values a field accepts: in words, and as a test of concrete values (elementwise for arrays)."""

    text: str
    test: Callable[[Any], Any]
    number: type[float] | type[int] | None = float  # to which a number is converted; None if it is no number
    optional: bool = False  # whether None, which is no number, is allowed as well


POSITIVE = Constraint("a finite number > 0", lambda x: x > 0)
NON_NEGATIVE = Constraint("a finite number >= 0", lambda x: x >= 0)
UNIT_INTERVAL = Constraint("a number in [0, 1]", lambda x: (x >= 0) & (x <= 1))
FINITE = Constraint("a finite number", lambda x: x == x)
FLOAT32_MAX, INT64_MAX = float(np.finfo(np.float32).max), int(np.iinfo(np.int64).max)
# JAX counts in int32.
WHOLE = Constraint("an integer >= 0 and < 2**31", lambda x: (x >= 0) & (x < 2**31), number=int)
COUNT = Constraint("an integer >= 1 and < 2**31", lambda x: (x >= 1) & (x < 2**31), number=int)
SMALL_COUNT = Constraint(  # of what stands side by side in memory
    "an integer >= 1 and <= 2**24", lambda x: (x >= 1) & (x <= 2**24), number=int
)
LARGE_COUNT = Constraint("an integer >= 1", lambda x: x >= 1, number=int)  # of the host
SWITCH = Constraint("True or False", lambda x: isinstance(x, bool | np.bool_), number=None)
FUNCTION = Constraint("a function", callable, number=None)


def kind_of(value: Any) -> str:
    """What a value is, in a word, for an error."""
    return "an array" if isinstance(value, jax.core.Tracer) else type(value).__name__


def check_kind(name: str, value: Any, kind: type) -> None:
    """Refuse what is not of a class.

    Raises:
        ConfigError: it is of another one.
    """
    if not isinstance(value, kind):
        raise ConfigError(f"{name}: must be a {kind.__name__}, not {kind_of(value)}")


def one_of(*choices: str, or_else: str | None = None) -> Constraint:
    """Accepts one of the given words, and with `or_else`, which says what it is for, a function."""
    words = "one of " + ", ".join(map(repr, choices))
    if or_else is None:
        return Constraint(words, lambda x: isinstance(x, str) and x in choices, number=None)
    return Constraint(
        f"{words}, or {or_else}", lambda x: x in choices if isinstance(x, str) else _is_function(x), number=None
    )


def _is_function(value: Any) -> bool:
    """Whether it can be called and hashed; a class is no function."""
    return callable(value) and isinstance(value, Hashable) and not isinstance(value, type)


def optional(allowed: Constraint) -> Constraint:
    """Accepts None as well."""
    return allowed._replace(text=f"{allowed.text}, or None", optional=True)


def static(default: Any, help: str, allowed: Constraint | None = None) -> Any:
    """A field that shapes the program; it must be hashable."""
    return dataclasses.field(default=default, metadata={"static": True, "help": help, "allowed": allowed})


def traced(default: Any, help: str, allowed: Constraint | None = None) -> Any:
    """A field that is data: a number, or an array or tracer of numbers."""
    return dataclasses.field(default=default, metadata={"static": False, "help": help, "allowed": allowed})


@dataclass_transform(kw_only_default=True, frozen_default=True)
class Settings:
    """Base of frozen, keyword-only, validated dataclasses that are pytrees of their traced fields.

    Construction validates what is concrete and lets tracers pass. Rebuilding from leaves, as JAX's transformations
    do, bypasses validation: the leaves may then be anything (`vmap` axes, shapes, sentinels).
    """

    def __init_subclass__(cls) -> None:
        dataclasses.dataclass(frozen=True, kw_only=True, eq=False)(cls)
        _register(cls)

    def __new__(cls, *args: Any, **values: Any) -> Self:
        if args:
            raise ConfigError(f"{cls.__name__} takes keyword arguments only, got {args[0]!r}")
        names = [field.name for field in _fields(cls)]
        for name in values:
            if name not in names:
                raise unknown_name(f"{cls.__name__} field", name, names)
        return super().__new__(cls)

    def __post_init__(self) -> None:
        for field in _fields(type(self)):
            if field.metadata["allowed"] is not None:
                check = check_static if field.metadata["static"] else check_traced
                value = check(field.name, getattr(self, field.name), field.metadata["allowed"])
                object.__setattr__(self, field.name, value)

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        (static, leaves, structure), (its_static, its_leaves, its_structure) = _parts(self), _parts(other)
        is_like = static == its_static and structure == its_structure
        return is_like and all(map(_is_equal, leaves, its_leaves))

    def __hash__(self) -> int:
        static, leaves, _ = _parts(self)
        return hash((static, *(tuple(np.ravel(leaf).tolist()) for leaf in leaves)))

    def check_unchanged(self) -> None:
        """Refuse objects that were changed where they are; asked whenever the settings go into a program."""

    def replace(self, **values: Any) -> Self:
        """A copy with some fields changed, validated like a new one."""
        current = {field.name: getattr(self, field.name) for field in _fields(type(self))}
        return type(self)(**(current | values))


def check_static(name: str, value: Any, allowed: Constraint) -> Any:
    """`value` as a Python number, if it must be one; otherwise as it is.

    Raises:
        ConfigError: it is not allowed, or a tracer.
    """
    if isinstance(value, jax.core.Tracer):
        raise ConfigError(f"{name}: is static and cannot be traced or mapped over; pass a Python value")
    if allowed.number is not None:
        return _as_single(name, value, allowed)
    if not allowed.test(value):
        raise ConfigError.of(name, value, allowed.text)
    return value


def check_traced(name: str, value: Any, allowed: Constraint) -> Any:
    """`value` as a Python number, if it is one; an array or a tracer as it is.

    Raises:
        ConfigError: it is concrete and not allowed.
    """
    if isinstance(value, jax.core.Tracer) or (value is None and allowed.optional):
        return value
    if isinstance(value, np.ndarray | jax.Array) and value.ndim:
        _check_array(name, value, allowed)
        return value
    return _as_single(name, value, allowed)


def _check_array(name: str, array: Any, allowed: Constraint) -> None:
    is_number = any(jax.numpy.issubdtype(array.dtype, kind) for kind in (np.integer, np.floating))
    concrete = np.asarray(array) if is_number else np.array(np.nan)
    is_whole = (concrete == np.floor(concrete)) | (allowed.number is not int)
    if not np.all(np.isfinite(concrete) & is_whole & allowed.test(concrete)):
        raise ConfigError.of(name, array, allowed.text)


def _as_single(name: str, value: Any, allowed: Constraint) -> float | int:
    kind, number = allowed.number or float, _as_number(value)
    is_finite = number is not None and abs(number) <= (FLOAT32_MAX if kind is float else INT64_MAX)
    if not is_finite or (kind is int and int(number) != number) or not allowed.test(kind(number)):
        raise ConfigError.of(name, value, allowed.text)
    return kind(number)


def _as_number(value: Any) -> Any:
    """A number, or an array of a single one, as a Python or NumPy scalar: equal programs for 1 and jnp.float32(1)."""
    if isinstance(value, np.ndarray | jax.Array) and not jax.dtypes.issubdtype(value.dtype, jax.dtypes.extended):
        value = value.item() if value.ndim == 0 else None
    return value if isinstance(value, numbers.Real) and not isinstance(value, bool) else None


def _parts(settings: Any) -> tuple[tuple[Any, ...], list[Any], Any]:
    """The values of static fields, and the leaves and the structure of those of traced fields."""
    values: dict[bool, list[Any]] = {True: [], False: []}
    for field in _fields(type(settings)):
        values[field.metadata["static"]].append(getattr(settings, field.name))
    leaves, structure = jax.tree.flatten(values[False])
    return tuple(values[True]), leaves, structure


def _is_equal(a: Any, b: Any) -> bool:
    """Whether two leaves, which may be arrays, are equal."""
    return a is b or bool(np.array_equal(a, b))


def _fields(cls: Any) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(cls)


def _register(cls: type) -> None:
    fields = _fields(cls)
    names = [field.name for field in fields if not field.metadata["static"]]
    static_names = [field.name for field in fields if field.metadata["static"]]
    keys = [jax.tree_util.GetAttrKey(name) for name in names]

    def flatten(settings: Any) -> tuple[list[Any], tuple[Any, ...]]:
        settings.check_unchanged()
        return [getattr(settings, name) for name in names], tuple(getattr(settings, name) for name in static_names)

    def flatten_with_keys(settings: Any) -> tuple[list[Any], tuple[Any, ...]]:
        leaves, aux = flatten(settings)
        return list(zip(keys, leaves, strict=True)), aux

    def unflatten(aux: tuple[Any, ...], leaves: Any) -> Any:
        settings: Any = object.__new__(cls)
        for name, value in [*zip(static_names, aux, strict=True), *zip(names, leaves, strict=True)]:
            object.__setattr__(settings, name, value)
        return settings

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
