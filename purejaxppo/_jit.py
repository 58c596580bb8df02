"""`jax.jit` as type checkers like it: what is compiled keeps its signature."""

from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, Protocol, TypeVar

import jax

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result", covariant=True)


class Jitted(Protocol[Parameters, Result]):
    """A compiled function."""

    def __call__(self, *args: Parameters.args, **kwargs: Parameters.kwargs) -> Result: ...

    def lower(self, *args: Parameters.args, **kwargs: Parameters.kwargs) -> Any:
        """See `jax.stages.Lowered`."""


def jit(*, static_argnames: Sequence[str] = ()) -> Callable[[Callable[Parameters, Result]], Jitted[Parameters, Result]]:
    """Compile a function at its first call for given shapes, dtypes and static arguments."""

    def decorate(function: Callable[Parameters, Result]) -> Jitted[Parameters, Result]:
        compiled: Any = jax.jit(function, static_argnames=tuple(static_argnames))
        return compiled

    return decorate
