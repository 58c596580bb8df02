"""From parameters to a policy: the networks of a configuration, their table, and their memory."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from gymnax.environments import spaces
from jax import Array

from purejaxppo.config import Config
from purejaxppo.distributions import Categorical, Distribution
from purejaxppo.environments import TabularModel, interface, is_tabular, make, tabulate
from purejaxppo.errors import ConfigError
from purejaxppo.losses import Batch
from purejaxppo.networks import ActorCritic, Recurrent, RecurrentActorCritic, Shape
from purejaxppo.normalizers import normalize

CACHED_ACTIVATIONS = 2**18  # numbers in one layer's activations that a CPU's cache holds; 2^17 to 2^19 are as fast


class Agent(NamedTuple):
    """What the networks need to decide and to judge."""

    params: Any
    obs_moments: Any  # `Moments` of what the networks read, if that is normalised


class Policy(NamedTuple):
    """What the networks say about an observation."""

    action: Distribution  # [...]
    value: Array  # [...]


class Opinion(NamedTuple):
    """What the networks say about samples: observations and the actions taken there."""

    log_prob: Array  # [B]
    entropy: Array  # [B], of the policy there
    value: Array  # [B]


def environment(config: Config) -> tuple[Any, Any]:
    """The environment and its parameters."""
    env = make(config.env)
    return env, env.default_params if config.env_params is None else config.env_params


def network(config: Config) -> Any:
    """The networks: those of the configuration, or the built-in ones that fit the environment."""
    if not isinstance(config.network, str):
        return config.network
    env = make(config.env)
    shape = Shape(
        action_space=interface.action_space(env),
        num_categories=interface.num_observations(env),
        channels=config.channels if config.network == "cnn" else (),
        hidden_sizes=config.hidden_sizes,
        activation=config.activation,
        layer_norm=config.layer_norm,
        is_recurrent=config.network == "gru",
        shared_torso=config.shared_torso,
        squash_actions=config.squash_actions,
        dtype=config.dtype,
    )
    return (RecurrentActorCritic if shape.is_recurrent else ActorCritic)(shape)


def is_recurrent(config: Config) -> bool:
    """Whether the networks have a memory."""
    return isinstance(network(config), Recurrent)


def initial_memory(config: Config) -> Any:
    """The networks' memory at the beginning of an episode; () if they have none."""
    return network(config).initial_memory() if is_recurrent(config) else ()


def initial_params(config: Config, key: Array, x: Any) -> Any:
    """Fresh networks for inputs like `x`.

    Raises:
        ConfigError: they do not give what they must.
    """
    memory = (initial_memory(config),) if is_recurrent(config) else ()
    outputs, params = network(config).init_with_output(key, x, *memory)
    if not isinstance(config.network, str):
        _check_outputs(config, outputs)
    return params


def _check_outputs(config: Config, outputs: Any) -> None:
    """Refuse what a user's network gives for one observation, unless it is what the learner reads."""
    name = f"network={type(config.network).__name__}"
    parts = ("distribution", "value", "memory") if is_recurrent(config) else ("distribution", "value")
    if not (isinstance(outputs, tuple) and len(outputs) == len(parts) and isinstance(outputs[0], Distribution)):
        raise ConfigError(f"{name}: must give ({', '.join(parts)}) for one observation")
    distribution, value, *memory = outputs
    if jnp.shape(value) != ():
        raise ConfigError(f"{name}: its value must be a single number, but has shape {jnp.shape(value)}")
    space = interface.action_space(make(config.env))
    found, expected = distribution.mode().shape, event_shape(config)
    if found != expected:
        raise ConfigError(f"{name}: its actions must have shape {expected}, for {space}, but have {found}")
    if isinstance(distribution, Categorical) and distribution.log_probs.shape != (space.n,):
        raise ConfigError(f"{name}: must choose from {space.n} actions, not {distribution.log_probs.shape[-1]}")
    if memory and _types(memory[0]) != _types(initial_memory(config)):
        raise ConfigError(f"{name}: its memory must have the structure, shapes and dtypes of initial_memory()")


def _types(tree: Any) -> tuple[Any, Any]:
    """The structure of a pytree, and the shapes and dtypes of its leaves."""
    return jax.tree.structure(tree), [(jnp.shape(leaf), jnp.result_type(leaf)) for leaf in jax.tree.leaves(tree)]


def policy(config: Config, agent: Agent, num_rows: int) -> Callable[..., tuple[Policy, Any]]:
    """The agent as a function from observations `[B, ...]` and memories `[B, ...]` to a `Policy` and the next memories.

    It is to be called on `num_rows` observations. Where there are fewer distinct ones than that, the networks are
    evaluated once on all of them, and the function is a look-up in that table: the same numbers and, through the
    look-up, the same gradients.
    """
    if not uses_table(config, num_rows):
        return partial(evaluate_networks, config, agent)
    table = policy_table(config, agent)
    return lambda obs, memory: (jax.tree.map(lambda leaf: leaf[obs], table), memory)


def judge(config: Config, agent: Agent, batch: Batch) -> Opinion:
    """What the networks say about samples `[B]`, to be differentiated by the parameters."""
    if is_recurrent(config):
        return replay(config, agent, batch)
    if not uses_table(config, len(batch.action)):
        return _opinion(evaluate_networks(config, agent, batch.obs)[0], batch.action)
    table = policy_table(config, agent)
    action: Any = table.action
    if not isinstance(action, Categorical):
        return _opinion(jax.tree.map(lambda leaf: leaf[batch.obs], table), batch.action)
    # A table of observations and actions, although entropy and value are the same for all actions: the gradient of a
    # look-up adds one sample after the other, and waits less the more entries they are spread over.
    by_obs = Opinion(action.log_probs, action.entropy[:, None], table.value[:, None])
    index = batch.obs * action.log_probs.shape[1] + batch.action
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, action.log_probs.shape).reshape(-1)[index], by_obs)


def replay(config: Config, agent: Agent, batch: Batch) -> Opinion:
    """What networks with a memory say about sequences `[B, T]`, read again from the memory before each."""
    initial = initial_memory(config)

    def read(memory: Any, step: tuple[Any, Array, Array]) -> tuple[Any, Opinion]:
        obs, action, done = step
        now, memory = evaluate_networks(config, agent, obs, memory)
        return reset_memory(memory, done, initial), _opinion(now, action)

    steps = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), (batch.obs, batch.action, batch.done))
    _, opinions = jax.lax.scan(read, batch.memory, steps)
    return jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), opinions)


def reset_memory(memory: Any, done: Array, initial: Any) -> Any:
    """Memories `[B, ...]`, at their beginning where an episode ended `[B]`."""

    def choose(leaf: Array, first: Array) -> Array:
        return jnp.where(done.reshape(-1, *[1] * first.ndim), first, leaf)

    return jax.tree.map(choose, memory, initial)


def _opinion(now: Policy, action: Array) -> Opinion:
    return Opinion(now.action.log_prob(action), now.action.entropy, now.value)


def uses_table(config: Config, num_rows: int) -> bool:
    """Whether a table of all observations is smaller than `num_rows` evaluations."""
    num_observations = interface.num_observations(make(config.env))
    return num_observations is not None and num_observations < num_rows and not is_recurrent(config)


def policy_table(config: Config, agent: Agent) -> Policy:
    """The policy at every one of `S` observations, `[S, ...]`."""
    num_observations = interface.num_observations(make(config.env))
    return evaluate_networks(config, agent, jnp.arange(num_observations))[0]


def evaluate_networks(config: Config, agent: Agent, obs: Any, memory: Any = ()) -> tuple[Policy, Any]:
    """The policy at observations `[B, ...]` with memories `[B, ...]`, and the memories after them."""
    env, env_params = environment(config)
    x = jax.vmap(partial(network_input, config))(obs)
    if config.normalize_obs:
        x = jax.vmap(partial(normalize, agent.obs_moments))(x)
    apply: Any = partial(network(config).apply, agent.params)
    if not isinstance(config.network, str):
        apply = jax.vmap(apply)  # the built-in networks take all rows at once
    action, value, *rest = apply(x, memory) if is_recurrent(config) else apply(x)
    mask = jax.vmap(lambda obs: interface.action_mask(env, obs, env_params))(obs)
    return Policy(action if mask is None else action.masked(mask), value), rest[0] if rest else memory


def network_input(config: Config, obs: Any) -> Any:
    """What the networks read of one observation: its features, or the observation itself."""
    return interface.features(make(config.env), obs) if config.network in ("mlp", "gru") else obs


def rows_at_once(config: Config, params: Any) -> int:
    """How many samples the networks take at once, a divisor of the minibatch.

    On a CPU as many as keep the activations in its caches: those of a large minibatch would travel to memory and back
    at every layer, which takes longer than the arithmetic. A minibatch that cannot be divided well stays whole.
    """
    if jax.default_backend() != "cpu" or uses_table(config, config.minibatch_size) or is_recurrent(config):
        return config.minibatch_size
    widest = max(max(leaf.shape, default=1) for leaf in jax.tree.leaves(params))
    fewest = config.minibatch_size * widest / CACHED_ACTIVATIONS
    candidates = range(math.ceil(fewest), math.ceil(4 * fewest))
    num_pieces = next((n for n in candidates if config.minibatch_size % n == 0), 1)
    return config.minibatch_size // num_pieces


def event_shape(config: Config) -> tuple[int, ...]:
    """Shape of one action as the distributions have it, and of the uniform numbers that it is drawn with."""
    space = interface.action_space(make(config.env))
    return (math.prod(space.shape),) if isinstance(space, spaces.Box) else tuple(space.shape)


def knows_optimum(config: Config) -> bool:
    """Whether the policy can be compared with the exact solution: the model is known, and the state says it all."""
    return is_tabular(make(config.env)) and not is_recurrent(config)


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


def policy_in(config: Config, agent: Agent, model: TabularModel) -> tuple[Array, Array]:
    """The policy in every state of a model: probabilities `[S, A]` and the critic's values `[S]`.

    Raises:
        ConfigError: the policy is not a function of the state alone.
    """
    if is_recurrent(config):
        raise ConfigError.of("network", config.network, "one without a memory, to be compared with the exact solution")
    now, _ = evaluate_networks(config, agent, model.obs)
    action: Any = now.action
    return jnp.exp(action.log_probs), now.value
