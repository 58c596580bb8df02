"""Check a custom environment."""

import dataclasses
import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from gymnax.environments.environment import Environment as GymnaxEnvironment
from jax import Array

from purejaxppo.distributions import bounds_of, is_out_of_reach
from purejaxppo.environments import spaces
from purejaxppo.environments.base import check_unchanged
from purejaxppo.environments.task import MAX_STEPS, Task
from purejaxppo.errors import ConfigError
from purejaxppo.keys import is_key
from purejaxppo.settings import COUNT, check_static
from purejaxppo.usable import are_usable

SEED = 0
LONGEST_WALK = 10_000  # steps, where no time limit is told that an evaluation reaches
SHORT_LIMIT, NUM_WALKS = 3, 16  # of the walks that tell whether a time limit terminates


def check_env(env: Any, env_params: Any = None, *, num_steps: int = 200) -> list[str]:
    """Everything about an environment that training would stumble over, or that is probably not meant.

    It resets the environment, and takes random steps in it.

    Args:
        env: an environment with gymnax's interface, see `Environment`.
        env_params: its parameters; its defaults if None.
        num_steps: of the random walk.

    Returns:
        One sentence for each problem; none if all is well.

    Raises:
        ConfigError: it is no environment, or `num_steps` is not a positive integer.
    """
    if not hasattr(env, "step"):
        raise ConfigError.of("env", env, "an environment with gymnax's interface")
    num_steps = check_static("num_steps", num_steps, COUNT)
    try:
        params = env.default_params if env_params is None else env_params
        check_unchanged(env)
        checks = partial(_of_walk, num_steps=num_steps), _of_time_limit, _of_reach
        return (
            [*_of_interface(env, params)]
            or [*_of_shapes(env, params)]
            or [problem for check in checks for problem in check(env, params)]
        )
    except ConfigError as error:
        return [str(error)]
    except Exception as error:  # whatever an author's code raises is what is wrong with it
        return [f"it raises {type(error).__name__}: {next(iter(str(error).splitlines()), '')}"]


def _of_interface(env: Any, params: Any) -> Iterator[str]:
    """Problems that show before anything runs."""
    try:
        hash(env)
    except TypeError:
        yield "it is not hashable, and so cannot be part of a compiled program: make it a frozen dataclass"
    expected: Any = jax.tree.structure(env.default_params)
    if jax.tree.structure(params) != expected:
        yield f"env_params must be like its default_params, {env.default_params!r}"
        return
    action_space, obs_space = env.action_space(params), env.observation_space(params)
    if not isinstance(action_space, spaces.Discrete | spaces.Box | spaces.MultiDiscrete):
        yield f"action_space is {action_space!r}: it must be Discrete, MultiDiscrete or Box"
    if isinstance(action_space, spaces.Box) and not np.all(np.less(action_space.low, action_space.high)):
        yield f"action_space is {action_space!r}: low must be below high"
    elif isinstance(action_space, spaces.Box) and not jnp.issubdtype(action_space.dtype, jnp.floating):
        yield f"action_space is {action_space!r} of {np.dtype(action_space.dtype)}: policies give floats in a Box"
    if isinstance(action_space, spaces.Discrete) and action_space.n < 1:
        yield f"action_space is {action_space!r}: there must be an action"
    if not isinstance(obs_space, spaces.Discrete | spaces.Box | spaces.Dict | spaces.Tuple):
        yield f"observation_space is {obs_space!r}: it must be Discrete, Box, Dict or Tuple"


def _of_shapes(env: Any, params: Any) -> Iterator[str]:
    """Problems that show when it is traced."""
    key = jax.random.key(SEED)
    obs, state = jax.eval_shape(env.reset, key, params)
    yield from _of_spec("reset's observation", env.observation_space(params), obs)
    action = jax.eval_shape(lambda obs, key: _random_action(Task(env, params), obs, key), obs, key)
    if isinstance(env, GymnaxEnvironment):  # whose `step` puts both together
        _, new_state, _, terminated = jax.eval_shape(env.step_env, key, state, action, params)[:4]
        problems = [*_of_state(state, new_state)]
        if terminated.shape != ():
            problems.append(f"terminated has shape {terminated.shape}: it must be a single number")
        if problems:
            yield from problems
            return
    result = jax.eval_shape(env.step, key, state, action, params)
    if len(result) not in (5, 6):
        yield f"step gives {len(result)} values: it must give obs, state, reward, terminated, truncated, info"
        return
    new_obs, new_state, reward, terminated = result[:4]
    yield from _of_spec("step's observation", env.observation_space(params), new_obs)
    yield from _of_state(state, new_state)
    for name, value in (("reward", reward), ("terminated", terminated), *zip(["truncated"], result[4:5], strict=True)):
        if len(result) == 6 and value.shape != ():
            yield f"{name} has shape {value.shape}: it must be a single number"
    features = jax.eval_shape(lambda obs: Task(env, params).features(Task(env, params).typed(obs)), obs)
    if features.ndim != (0 if jnp.issubdtype(features.dtype, jnp.integer) else 1):
        yield f"features has shape {features.shape}, of {features.dtype}: it must be a vector of floats, or one integer"
    if len(result) == 6 and "final_observation" not in result[5]:
        yield "step's info lacks 'final_observation', the successor before any reset"


def _of_state(state: Any, new_state: Any) -> Iterator[str]:
    """Problems of a state that changes its form."""
    before, after = jax.tree.structure(state), jax.tree.structure(new_state)
    if before != after:  # type: ignore[operator]
        yield f"step changes the structure of the state, from {before} to {after}"
        return
    leaves = zip(jax.tree_util.tree_leaves_with_path(state), jax.tree.leaves(new_state), strict=True)
    for (path, old), new in leaves:
        name = f"state{jax.tree_util.keystr(path)}"
        if old.shape != new.shape:
            yield f"step changes the shape of {name}, from {old.shape} to {new.shape}"
        if jnp.issubdtype(new.dtype, jnp.floating) and not jnp.issubdtype(old.dtype, jnp.inexact):
            yield f"step changes {name} from {old.dtype} to {new.dtype}: it stays {old.dtype}, its fractions are lost"


def _of_spec(what: str, space: Any, obs: Any) -> Iterator[str]:
    """Problems of an observation's shape."""
    if isinstance(space, spaces.Dict | spaces.Tuple):
        for part, value in spaces.parts(space, obs):
            yield from _of_spec(what, part, value)
    elif tuple(obs.shape) != tuple(space.shape):
        yield f"{what} has shape {obs.shape}, but observation_space says {tuple(space.shape)}"


def _of_walk(env: Any, params: Any, num_steps: int) -> Iterator[str]:
    """Problems that show when it runs."""
    key_start, key_steps = jax.random.split(jax.random.key(SEED))
    task = Task(env, params, fills=False)
    obs, state = jax.jit(task.reset)(key_start)

    def step(carry: tuple[Any, Any], key: Array) -> Any:
        obs, state = carry
        key_action, key_step = jax.random.split(key)
        mask = task.action_mask(obs)
        action = _random_action(task, obs, key_action)
        step, again = (task.step(key_step, state, action) for _ in range(2))
        return (step.obs, step.state), (step, again, mask, keeps(env.step(key_step, state, action, params)[0]))

    def keeps(given: Any) -> Array:
        """Whether an observation is the same in the dtypes that its space declares."""
        same = jax.tree.map(lambda x, kept: jnp.all((x == kept) | (x != x)), given, task.typed(given))
        return jnp.all(jnp.stack(jax.tree.leaves(same)))

    keys = jax.random.split(key_steps, num_steps)
    last, (steps, again, masks, is_kept) = jax.jit(lambda carry: jax.lax.scan(step, carry, keys))((obs, state))
    space = env.observation_space(params)
    yield from _of_values("observation", space, steps.obs)
    yield from _of_values("final_observation", space, steps.next_obs)
    if not np.all(is_kept):
        yield "observation holds numbers that the dtypes of observation_space have not: they are changed"
    if not are_usable(steps.reward):
        yield "a reward is not finite, or too large to square"
    if not all(map(_same, jax.tree.leaves(steps), jax.tree.leaves(again))):
        yield "the same step with the same key gave something else"
    if masks is not None and not np.all(np.any(masks, axis=-1)):
        yield "action_mask allowed no action at all in some state"
    goes_on = ~np.asarray(steps.done)
    if not all(map(_same, *(_rows(tree, goes_on) for tree in (steps.obs, steps.next_obs)))):
        yield "where an episode goes on, final_observation differs from the observation"
    if not task.tells_truncation:
        yield "step gives five values: a time limit cannot be told from a termination; gymnax 1.0 gives six"
    limit = getattr(params, "max_steps_in_episode", LONGEST_WALK)  # may be infinite
    farthest = max(num_steps, (int(limit) if limit <= MAX_STEPS else LONGEST_WALK) + 1)
    if not np.any(steps.done) and not _ends_within(task, last, farthest - num_steps):
        yield f"no episode ended in {farthest} random steps: evaluation cuts each short after {MAX_STEPS:,}"


def _of_time_limit(env: Any, params: Any) -> Iterator[str]:
    """A time limit that terminates: with a shorter one, an episode terminates that goes on without."""
    own = getattr(params, "max_steps_in_episode", None)
    if own is None or not Task(env, params).tells_truncation:
        return
    replace: Any = getattr(params, "_replace", partial(dataclasses.replace, params))
    limits = SHORT_LIMIT, LONGEST_WALK if own == math.inf else max(int(own), LONGEST_WALK)
    cut, uncut = (_first_ends(Task(env, replace(max_steps_in_episode=limit))) for limit in limits)
    if np.any(cut[0] & ~uncut[1]):
        why = "so nothing is expected after it; leave it to is_truncated"
        yield f"max_steps_in_episode terminates an episode, {why}"


def _first_ends(task: Task) -> tuple[np.ndarray, np.ndarray]:
    """Of some random walks, step by step: whether their first episode terminates, and whether it is over."""

    def walk(key: Array) -> tuple[Array, Array]:
        key_start, key_steps = jax.random.split(key)

        def step(carry: tuple[Any, Any, Array], key: Array) -> Any:
            obs, state, is_over = carry
            key_action, key_step = jax.random.split(key)
            result = task.step(key_step, state, _random_action(task, obs, key_action))
            over = is_over | result.done
            return (result.obs, result.state, over), (result.terminated & ~is_over, over)

        keys = jax.random.split(key_steps, SHORT_LIMIT + 1)
        return jax.lax.scan(step, (*task.reset(key_start), jnp.array(False)), keys)[1]

    terminates, is_over = jax.jit(jax.vmap(walk))(jax.random.split(jax.random.key(SEED), NUM_WALKS))
    return np.asarray(terminates), np.asarray(is_over)


def _of_reach(env: Any, params: Any) -> Iterator[str]:
    """Actions that the usual policy does not get to."""
    space = env.action_space(params)
    if isinstance(space, spaces.Box) and is_out_of_reach(space):
        why = "a Gaussian policy begins around 0 with deviation 1, far from most of that"
        yield f'action_space is {space!r}: {why}; use MLP(distribution="tanh_gaussian"), or scale it to about -1 to 1'


def _ends_within(task: Task, start: tuple[Any, Any], num_steps: int) -> bool:
    """Whether an episode ends within some further random steps."""

    def step(carry: tuple[Any, Any, Array, Array, Array]) -> tuple[Any, Any, Array, Array, Array]:
        obs, state, key, count, _ = carry
        key, key_action, key_step = jax.random.split(key, 3)
        result = task.step(key_step, state, _random_action(task, obs, key_action))
        return result.obs, result.state, key, count + 1, result.done

    def goes_on(carry: tuple[Any, Any, Array, Array, Array]) -> Array:
        return ~carry[4] & (carry[3] < num_steps)

    first = (*start, jax.random.key(SEED + 1), jnp.int32(0), jnp.array(False))
    return bool(jax.jit(lambda: jax.lax.while_loop(goes_on, step, first))()[4])


def _of_values(what: str, space: Any, values: Any) -> Iterator[str]:
    """Problems of observations `[T, ...]` outside of their space."""
    if isinstance(space, spaces.Dict | spaces.Tuple):
        for part, value in spaces.parts(space, values):
            yield from _of_values(what, part, value)
        return
    low, high = (0, space.n - 1) if isinstance(space, spaces.Discrete) else (space.low, space.high)
    if np.any(np.isnan(values)):
        yield f"{what} holds NaN"
    elif not are_usable(values):
        yield f"{what} holds infinity, or a number too large to square"
    elif np.any(np.less(values, low)) or np.any(np.greater(values, high)):
        yield f"{what} leaves observation_space, which is {space!r}: it was seen from {values.min()} to {values.max()}"


def _random_action(task: Task, obs: Any, key: Array) -> Array:
    """One that the mask allows."""
    space, mask = task.action_space, task.action_mask(obs)
    if isinstance(space, spaces.Box):
        low, high = bounds_of(space, space.shape)
        low = jnp.where(jnp.isfinite(low), low, jnp.where(jnp.isfinite(high), high - 2, -1))
        high = jnp.where(jnp.isfinite(high), high, low + 2)  # where there are no bounds, from -1 to 1
        return jax.random.uniform(key, space.shape, jnp.float32, low, high).astype(space.dtype)
    if mask is None:
        return space.sample(key)
    return jax.random.categorical(key, jnp.where(mask, 0.0, -jnp.inf))


def _rows(tree: Any, chosen: np.ndarray) -> list[np.ndarray]:
    return [np.asarray(leaf)[chosen] for leaf in jax.tree.leaves(tree)]


def _same(a: Any, b: Any) -> bool:
    """Up to rounding: XLA may compute one thing in two ways."""
    if is_key(a):
        a, b = jax.random.key_data(a), jax.random.key_data(b)
    if jnp.issubdtype(a.dtype, jnp.floating):
        return np.allclose(a, b, rtol=1e-5, atol=1e-6, equal_nan=True)
    return np.array_equal(a, b)
