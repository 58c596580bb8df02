"""`jax.jit` that keeps the signature of what is compiled, and refuses in our words what it cannot take."""

import functools
import inspect
from collections.abc import Callable, Hashable, Sequence
from typing import Any, ParamSpec, Protocol, TypeVar

import jax

from purejaxppo.errors import ConfigError, PurejaxppoError

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result", covariant=True)


class Jitted(Protocol[Parameters, Result]):
    """A compiled function."""

    def __call__(self, *args: Parameters.args, **kwargs: Parameters.kwargs) -> Result: ...

    def lower(self, *args: Parameters.args, **kwargs: Parameters.kwargs) -> Any:
        """See `jax.stages.Lowered`."""


def jit(*, static_argnames: Sequence[str] = ()) -> Callable[[Callable[Parameters, Result]], Jitted[Parameters, Result]]:
    """Compile a function at its first call for given shapes, dtypes and static arguments.

    The function raises a `ConfigError` for an argument that no compiled function can take.
    """

    def decorate(function: Callable[Parameters, Result]) -> Jitted[Parameters, Result]:
        return _Checked(function, static_argnames)

    return decorate


class _Checked:
    """A compiled function that refuses in our words what it cannot take."""

    def __init__(self, function: Callable[..., Any], static_argnames: Sequence[str]) -> None:
        functools.update_wrapper(self, function)
        self._function: Any = jax.jit(function, static_argnames=tuple(static_argnames))
        self._static_argnames = static_argnames

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return self._function(*args, **kwargs)
        except PurejaxppoError:
            raise
        except (TypeError, ValueError, OverflowError):  # only now, so that no call takes longer
            _check_arguments(inspect.signature(self).bind(*args, **kwargs).arguments, self._static_argnames)
            raise

    def lower(self, *args: Any, **kwargs: Any) -> Any:
        return self._function.lower(*args, **kwargs)

    def __reduce__(self) -> str:
        return vars(self)["__qualname__"]  # copied and pickled by its name, as any function


def compile(function: Any, *args: Any, **kwargs: Any) -> Any:
    """A function of `jax.jit` compiled for these arguments now; it is called without the static ones.

    Without `jit` (`jax.disable_jit`, for debugging) there is nothing to compile, and it is the function itself.
    """
    if jax.config.jax_disable_jit:  # type: ignore[attr-defined]
        return functools.partial(function, **kwargs)
    return function.lower(*args, **kwargs).compile()


def _check_arguments(arguments: dict[str, Any], static_argnames: Sequence[str]) -> None:
    """Refuse arguments that cannot go into a compiled function.

    Raises:
        ConfigError: there is one.
    """
    for name, value in arguments.items():
        if name in static_argnames:
            if not isinstance(value, Hashable):
                raise ConfigError.of(name, value, "hashable, as it shapes the program")
            continue
        check_arrays(name, value)


def check_arrays(name: str, value: Any) -> None:
    """Refuse a pytree that holds anything but arrays and numbers.

    Raises:
        ConfigError: it does.
    """
    for leaf in jax.tree.leaves(value):
        try:
            jax.eval_shape(lambda x: x, leaf)
        except (TypeError, ValueError, OverflowError):
            held = "" if leaf is value else f", which holds {leaf!r}"
            raise ConfigError(f"{name}: must be made of arrays and numbers, not {value!r}{held}") from None
