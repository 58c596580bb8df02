"""From parameters to a policy, and from a policy to experience."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from purejaxppo.config import Config
from purejaxppo.distributions import Categorical
from purejaxppo.environments import TabularModel, interface, make, tabulate
from purejaxppo.fields import ConfigError
from purejaxppo.networks import ActorCritic

CACHED_ACTIVATIONS = 2**18  # numbers in one layer's activations that a CPU's cache holds; 2^17 to 2^19 are as fast


class Policy(NamedTuple):
    """What the networks say about an observation."""

    action: Categorical  # [...]
    value: Array  # [...]


class Opinion(NamedTuple):
    """What the networks say about samples: observations and the actions taken there."""

    log_prob: Array  # [B]
    entropy: Array  # [B], of the policy there
    value: Array  # [B]


class Runner(NamedTuple):
    """One environment under way."""

    env_state: Any
    obs: Array
    episode_return: Array  # [], of the episode under way
    episode_length: Array  # [], int32


class Transition(NamedTuple):
    """One step of one environment."""

    obs: Array
    action: Array
    log_prob: Array
    next_obs: Array  # the true successor, before any reset
    reward: Array
    terminated: Array
    done: Array  # terminated or truncated
    episode_return: Array  # so far, this step included
    episode_length: Array


def environment(config: Config) -> tuple[Any, Any]:
    """The environment and its parameters."""
    env = make(config.env)
    return env, env.default_params if config.env_params is None else config.env_params


def tabular_model(config: Config) -> TabularModel:
    """The environment as arrays.

    Raises:
        ConfigError: it is not known how.
    """
    env, env_params = environment(config)
    model = tabulate(env, env_params)
    if model is None:
        allowed = "GridWorld, FrozenLake-misc, FourRooms-misc, Catch-bsuite, or one that implements tabular_model"
        raise ConfigError.of("env", config.env, f"an environment whose model is known: {allowed}")
    return model._replace(obs=interface.typed(env, model.obs))


def network(config: Config) -> ActorCritic:
    """The networks that fit the environment."""
    env = make(config.env)
    return ActorCritic(
        interface.num_actions(env), config.hidden_sizes, config.activation, interface.num_observations(env)
    )


def policy(config: Config, params: Any, num_rows: int) -> Callable[[Array], Policy]:
    """`params` as a function from observations `[B, ...]` to a `Policy`, to be called on `num_rows` of them.

    Where there are fewer distinct observations than that, the networks are evaluated once on all of them, and the
    function is a look-up in that table: the same numbers and, through the look-up, the same gradients.
    """
    if not uses_table(config, num_rows):
        return partial(evaluate_networks, config, params)
    table = policy_table(config, params)
    return lambda obs: jax.tree.map(lambda leaf: leaf[obs], table)


def judge(config: Config, params: Any, obs: Array, action: Array) -> Opinion:
    """What the networks say about samples `[B]`, to be differentiated by `params`."""
    if not uses_table(config, len(action)):
        now = evaluate_networks(config, params, obs)
        return Opinion(now.action.log_prob(action), now.action.entropy, now.value)
    # A table of observations and actions, although entropy and value are the same for all actions: the gradient of a
    # look-up adds one sample after the other, and waits less the more entries they are spread over.
    table = policy_table(config, params)
    num_actions = table.action.log_probs.shape[1]
    by_obs = Opinion(table.action.log_probs, table.action.entropy[:, None], table.value[:, None])
    index = obs * num_actions + action
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, table.action.log_probs.shape).reshape(-1)[index], by_obs)


def uses_table(config: Config, num_rows: int) -> bool:
    """Whether a table of all observations is smaller than `num_rows` evaluations."""
    num_observations = interface.num_observations(make(config.env))
    return num_observations is not None and num_observations < num_rows


def policy_table(config: Config, params: Any) -> Policy:
    """The policy at every one of `S` observations, `[S, ...]`."""
    num_observations = interface.num_observations(make(config.env))
    return evaluate_networks(config, params, jnp.arange(num_observations))


def policy_in(config: Config, params: Any, model: TabularModel) -> tuple[Array, Array]:
    """The policy in every state of a model: probabilities `[S, A]` and the critic's values `[S]`."""
    now = evaluate_networks(config, params, model.obs)
    return jnp.exp(now.action.log_probs), now.value


def evaluate_networks(config: Config, params: Any, obs: Array) -> Policy:
    """The policy at observations `[B, ...]`."""
    env, env_params = environment(config)
    outputs: Any = network(config).apply(params, jax.vmap(partial(interface.features, env))(obs))
    logits, value = outputs
    mask = jax.vmap(lambda obs: interface.action_mask(env, obs, env_params))(obs)
    return Policy(Categorical.from_logits(logits, mask), value)


def start(config: Config, key: Array) -> Runner:
    """A fresh environment."""
    obs, env_state = interface.reset(make(config.env), key, environment(config)[1])
    return Runner(env_state, obs, jnp.zeros(()), jnp.zeros((), jnp.int32))


def rollout(config: Config, params: Any, runners: Runner, key: Array) -> tuple[Runner, Transition]:
    """`T` steps of `N` environments under the current policy.

    Args:
        runners: `[N]`.
        key: one typed key, consumed. The randomness of the whole rollout is drawn at once, which is much cheaper
            than splitting keys step by step.

    Returns:
        `(runners, transitions)`, `[N]` and `[T, N]`.
    """
    act = policy(config, params, config.batch_size)
    env, env_params = environment(config)
    step_each = jax.vmap(lambda key, state, action: interface.step(env, key, state, action, env_params))

    def step(runners: Runner, randomness: tuple[Array, Array]) -> tuple[Runner, Transition]:
        uniform, keys = randomness
        now = act(runners.obs)
        action = now.action.sample(uniform)
        step = step_each(keys, runners.env_state, action)
        transition = Transition(
            obs=runners.obs,
            action=action,
            log_prob=now.action.log_prob(action),
            next_obs=step.next_obs,
            reward=step.reward,
            terminated=step.terminated,
            done=step.done,
            episode_return=runners.episode_return + step.reward,
            episode_length=runners.episode_length + 1,
        )
        return Runner(
            step.state,
            step.obs,
            jnp.where(step.done, 0.0, transition.episode_return),
            jnp.where(step.done, 0, transition.episode_length),
        ), transition

    key_action, key_env = jax.random.split(key)
    shape = (config.num_steps, config.num_envs)
    randomness = jax.random.uniform(key_action, shape), jax.random.split(key_env, shape)
    return jax.lax.scan(step, runners, randomness)


def values(config: Config, params: Any, runners: Runner, transitions: Transition) -> tuple[Array, Array]:
    """`(value, next_value)`, `[T, N]` each: of what every transition saw, and of its true successor.

    They are evaluated after the rollout that gave `runners` and `transitions`, in pieces larger than one of its steps.

    Where an episode goes on, the successor is what the next row saw. Where it terminated, there is none, and any
    number will do. Only a time limit cuts an episode off before its successor is seen; where that happened, the
    successors are evaluated as well.
    """
    t = transitions
    look_up = policy(config, params, config.batch_size)

    def evaluate(obs: Any) -> Array:
        """The values of observations `[T, N, ...]`."""
        if uses_table(config, config.batch_size):
            return look_up(obs).value
        piece = rows_at_once(config, params)
        pieces = jax.tree.map(lambda leaf: leaf.reshape(-1, piece, *leaf.shape[2:]), obs)
        return jax.lax.map(lambda obs: look_up(obs).value, pieces).reshape(t.done.shape)

    value = evaluate(t.obs)
    last = look_up(runners.obs).value
    of_successors = jax.lax.cond(jnp.any(t.done & ~t.terminated), evaluate, lambda obs: value, t.next_obs)
    return value, jnp.where(t.done, of_successors, jnp.concatenate([value[1:], last[None]]))


def rows_at_once(config: Config, params: Any) -> int:
    """How many samples the networks take at once, a divisor of the minibatch.

    On a CPU as many as keep the activations in its caches: those of a large minibatch would travel to memory and back
    at every layer, which takes longer than the arithmetic. A minibatch that cannot be divided well stays whole.
    """
    if jax.default_backend() != "cpu" or uses_table(config, config.minibatch_size):
        return config.minibatch_size
    widest = max(max(leaf.shape) for leaf in jax.tree.leaves(params))
    fewest = config.minibatch_size * widest / CACHED_ACTIVATIONS
    candidates = range(math.ceil(fewest), math.ceil(4 * fewest))
    num_pieces = next((n for n in candidates if config.minibatch_size % n == 0), 1)
    return config.minibatch_size // num_pieces
