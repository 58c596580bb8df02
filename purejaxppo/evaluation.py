"""Using a trained policy: whole episodes, single actions, or exactly, where the environment's model is known."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from purejaxppo import planning
from purejaxppo._jit import jit
from purejaxppo.acting import Policy, Runner, start
from purejaxppo.config import Config
from purejaxppo.environments import Task
from purejaxppo.environments.task import MAX_STEPS
from purejaxppo.errors import ConfigError
from purejaxppo.keys import check_key
from purejaxppo.numerics import add
from purejaxppo.ppo import TrainState, bind, bind_to
from purejaxppo.settings import COUNT, check_static
from purejaxppo.usable import usable

# Folded into the evaluation's key, so that a key which also trained gives other random numbers here. Training splits
# keys, which is folding in small numbers.
EVALUATION = 0x6576616C


class Evaluation(NamedTuple):
    """Whole episodes."""

    episode_return: Array  # [num_episodes], undiscounted
    episode_length: Array  # [num_episodes], int32, steps
    is_finished: Array  # [num_episodes], bool; the numbers of the others are those of `max_steps`


_Carry = tuple[Runner, Evaluation, Array, Array]  # of a loop over steps; the third are the steps so far


@jit(static_argnames=["num_episodes", "greedy", "max_steps"])
def evaluate(
    config: Config,
    state: TrainState,
    key: Array,
    *,
    num_episodes: int = 128,
    greedy: bool = True,
    max_steps: int = MAX_STEPS,
) -> Evaluation:
    """Play exactly `num_episodes` whole episodes, side by side, with the policy of `state`.

    Every episode counts once, however long it takes; a time limit is an episode's end like any other. `jax.vmap` maps
    it over states and keys (seeds).

    Args:
        key: one typed key, consumed; its numbers differ from those that training draws from the same key.
        num_episodes: how many, at least 1.
        greedy: take the most probable action; otherwise sample.
        max_steps: after which episodes that have not ended are left where they are, at least 1.

    Raises:
        ConfigError: `num_episodes` or `max_steps` is not a positive integer, the key is not a single typed key, or the
            state is of many agents.
    """
    num_episodes = check_static("num_episodes", num_episodes, COUNT)
    max_steps = check_static("max_steps", max_steps, COUNT)
    check_key(key)
    networks = bind_to(config, state)
    task = networks.task
    act = networks.act(state.agent, table=networks.can_tabulate)
    uniforms = (num_episodes, *task.event_shape)

    def step(runner: Runner, action: Array, memory: Any, key: Array) -> tuple[Runner, Array]:
        result = task.step(key, runner.env_state, action)
        episode_return, lost = add(runner.episode_return, runner.lost, usable(result.reward))
        return Runner(result.state, result.obs, memory, episode_return, runner.episode_length + 1, lost), result.done

    def step_all(carry: _Carry) -> _Carry:
        runners, episodes, num_steps, key = carry
        key_action, key_env, key = jax.random.split(key, 3)
        policy, memory = act(runners.obs, runners.memory)  # the first episode is the only one that counts: no reset
        actions = _choose(policy, task, None if greedy else jax.random.uniform(key_action, uniforms))
        runners, done = jax.vmap(step)(runners, actions, memory, jax.random.split(key_env, num_episodes))
        so_far = Evaluation(runners.episode_return, runners.episode_length, done)
        episodes = jax.tree.map(partial(jnp.where, episodes.is_finished), episodes, so_far)
        return runners, episodes, num_steps + 1, key

    def goes_on(carry: _Carry) -> Array:
        return ~jnp.all(carry[1].is_finished) & (carry[2] < max_steps)

    key_start, key = jax.random.split(jax.random.fold_in(key, EVALUATION))
    runners = jax.vmap(partial(start, task, memory=networks.initial_memory))(jax.random.split(key_start, num_episodes))
    episodes = Evaluation(runners.episode_return, runners.episode_length, jnp.zeros(num_episodes, bool))
    return jax.lax.while_loop(goes_on, step_all, (runners, episodes, jnp.int32(0), key))[1]


def score(config: Config, state: TrainState, key: Array, *, num_episodes: int = 128) -> dict[str, Array]:
    """What the agent is worth, as scalars by name; `jax.vmap` maps it over states and keys (seeds).

    Args:
        key: one typed key, consumed.
        num_episodes: whole episodes, of the greedy and as many of the sampled policy.

    Returns:
        `score`: what an episode of the greedy policy returns, exactly where the environment's model is known, and
        otherwise the mean of the episodes; `greedy_return`, `greedy_length`, `sampled_return`, `sampled_length`: means
        over episodes; `num_unfinished`, how many of these did not end within 100,000 steps; and where the model is
        known the fields of `Optimality`.
    """
    values = {"num_unfinished": jnp.int32(0)}
    for name, key_episodes in zip(("greedy", "sampled"), jax.random.split(key), strict=True):
        episodes = evaluate(config, state, key_episodes, num_episodes=num_episodes, greedy=name == "greedy")
        values[f"{name}_return"] = jnp.mean(episodes.episode_return)
        values[f"{name}_length"] = jnp.mean(episodes.episode_length, dtype=jnp.float32)
        values["num_unfinished"] += jnp.sum(~episodes.is_finished)
    values |= optimality(config, state)._asdict() if bind(config).knows_optimum else {}
    return {"score": values.get("expected_return", values["greedy_return"])} | values


class Optimality(NamedTuple):
    """How far from the best a policy is, exactly."""

    optimal_return: Array  # [], of the best policy, see `planning.optimal_return`
    expected_return: Array  # [], of this one, see `planning.expected_return`
    gap: Array  # [], their difference
    success: Array  # [], probability that an episode terminates with a positive reward
    value_error: Array  # [], root mean square over states of the critic's error against V^pi of the sampled policy
    optimal_fraction: Array  # [], share of states where the greedy action is optimal for the discount factor


@jit(static_argnames=["greedy"])
def optimality(config: Config, state: TrainState, *, greedy: bool = True) -> Optimality:
    """Compare the policy of `state` with the exact solution of its environment.

    The returns are those of whole episodes: undiscounted, and cut short by the time limit. The critic and the greedy
    actions are compared with the discounted solution, which is what PPO estimates; states that an agent can never
    act in do not count. `jax.vmap` maps it over states (seeds) and traced fields.

    Args:
        greedy: whether the returns are those of the most probable actions; otherwise of the sampled ones.

    Raises:
        ConfigError: the environment's model is not known, see `environments.tabulate`, or the state is of many agents.
    """
    networks = bind_to(config, state)
    model, horizon = networks.task.tabular_model(), networks.task.horizon
    policy, value = networks.in_model(state.agent, model)
    mode = jnp.argmax(policy, axis=-1)
    played = jax.nn.one_hot(mode, policy.shape[-1]) if greedy else policy
    best, achieved = planning.optimal_return(model, horizon), planning.expected_return(model, played, horizon)

    counts = planning.reachable(model)
    error = value - planning.policy_evaluation(model, policy, config.gamma)
    is_optimal = planning.value_iteration(model, config.gamma).is_optimal
    return Optimality(
        optimal_return=best,
        expected_return=achieved.episode_return,
        gap=best - achieved.episode_return,
        success=achieved.success,
        value_error=jnp.sqrt(jnp.mean(error**2, where=counts)),
        optimal_fraction=jnp.mean(jnp.take_along_axis(is_optimal, mode[:, None], axis=1)[:, 0], where=counts),
    )


@jit()
def act(config: Config, state: TrainState, obs: Any, memory: Any = None, key: Array | None = None) -> tuple[Array, Any]:
    """The policy's action: the most probable one, or one drawn with `key`.

    Args:
        obs: one observation, or a batch with any leading axes, as the environment emits them.
        memory: what the last call returned, with the leading axes of `obs`; None at the beginning of an episode.
        key: one typed key, consumed; None is greedy.

    Returns:
        `(action, memory)`: what the environment takes, with the leading axes of `obs`, int32 for choices and float32 in
        the box otherwise; and the network's memory after it, `()` where it has none.

    Raises:
        ConfigError: the shape of `obs` does not end in that of the environment's observations, or the state is of many
            agents.
    """
    networks = bind_to(config, state)
    task, leading = networks.task, _leading(networks.task, obs)
    if key is not None:
        check_key(key)
    if memory is None:
        memory = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, leading + leaf.shape), networks.initial_memory)
    rows, memory_rows = jax.tree.map(
        lambda leaf: leaf.reshape(-1, *leaf.shape[len(leading) :]), (task.typed(obs), memory)
    )
    policy, new_memory = networks.step(state.agent, rows, memory_rows)
    uniform = None if key is None else jax.random.uniform(key, (policy.value.size, *task.event_shape))
    action = _choose(policy, task, uniform)
    return jax.tree.map(lambda leaf: leaf.reshape(*leading, *leaf.shape[1:]), (action, new_memory))


def _leading(task: Task, obs: Any) -> tuple[int, ...]:
    """The axes of observations before those of a single one.

    Raises:
        ConfigError: they are not shaped like the environment's.
    """
    spec = task.obs_spec
    expected: Any = jax.tree.structure(spec)
    if jax.tree.structure(obs) != expected:
        raise ConfigError(f"obs: must be structured like {jax.tree.map(lambda leaf: leaf.shape, spec)}")
    if task.num_observations is not None and not jnp.issubdtype(jnp.result_type(obs), jnp.integer):
        raise ConfigError(f"obs: has dtype {jnp.result_type(obs)}; must be indices of observations, integers")
    found = set()
    for leaf, one in zip(jax.tree.leaves(obs), jax.tree.leaves(spec), strict=True):
        shape = jnp.shape(leaf)
        leading = shape[: len(shape) - len(one.shape)]
        if shape != leading + one.shape:
            raise ConfigError(f"obs: has shape {shape}; must end in {one.shape}, the shape of one observation")
        found.add(leading)
    if len(found) > 1:
        raise ConfigError(f"obs: its parts must have the same leading axes, but have {sorted(found)}")
    return found.pop()


def _choose(policy: Policy, task: Task, uniform: Array | None) -> Array:
    """The mode, or a sample, as the environment takes it."""
    distribution = policy.distribution
    return distribution.to_env(
        distribution.mode() if uniform is None else distribution.sample(uniform), task.action_space
    )
