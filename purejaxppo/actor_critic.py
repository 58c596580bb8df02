"""From parameters to a policy: networks bound to a task, their table, and their two readings."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.errors import FlaxError
from jax import Array

from purejaxppo.acting import Act, Policy, Runner, Transition
from purejaxppo.distributions import Categorical, Distribution
from purejaxppo.environments import Task, is_tabular
from purejaxppo.environments.spaces import as_floats
from purejaxppo.errors import ConfigError
from purejaxppo.networks import Network, Recurrent, reset_memory
from purejaxppo.normalizers import Moments, normalize
from purejaxppo.planning import TabularModel, expected_return

CACHED_ACTIVATIONS = 2**18  # numbers in one layer's activations that a CPU's cache holds; 2^17 to 2^19 are as fast


class Agent(NamedTuple):
    """What the networks need to act and to learn."""

    params: Any
    obs_moments: Any = ()  # `Moments` of what the networks read, if that is normalised


@dataclass(frozen=True, eq=False)
class ActorCritic:
    """Policy and value networks in a task, as functions of an `Agent`.

    Networks with a memory have two readings: `step` takes one observation and a memory, for acting; `sequence` takes
    all steps at once, resets included, for learning and for values.

    Attributes:
        task: the environment and its parameters.
        network: settings of a built-in network, or a flax module from one observation to `(distribution, value)`.
        normalize_obs: whether the networks read what is standardised by `Agent.obs_moments`.
    """

    task: Task
    network: Any
    normalize_obs: bool = False

    @property
    def module(self) -> nn.Module:
        """The flax module."""
        if isinstance(self.network, Network):
            return self.network.module(self.task.action_kind, self.task.num_observations)
        return self.network

    @property
    def is_recurrent(self) -> bool:
        """Whether the networks have a memory."""
        return isinstance(self.module, Recurrent)

    @property
    def initial_memory(self) -> Any:
        """The memory at the beginning of an episode; () if there is none."""
        module = self.module
        return module.initial_memory() if isinstance(module, Recurrent) else ()

    @property
    def knows_optimum(self) -> bool:
        """Whether the policy can be compared with the exact solution: a known model, and a state that says it all."""
        return is_tabular(self.task.env) and not self.is_recurrent

    def init(self, key: Array, obs: Any) -> Any:
        """Fresh parameters, for observations like `obs`.

        Raises:
            ConfigError: a network of the user's does not give what it must.
        """
        memory = (self.initial_memory,) if self.is_recurrent else ()
        x = self.network_input(obs)
        outputs, params = self.module.init_with_output(key, x, *memory)
        if not isinstance(self.network, Network):
            self._check_outputs(outputs)
            self._check_pure(params, x, *memory)
        return params

    def check_agent(self, agent: Agent) -> None:
        """Refuse an agent that is not of these networks; dtypes may differ, as those of a smaller copy do.

        Raises:
            ConfigError: its parameters differ in structure or shapes, or it has moments where none are used.
        """
        self.checked(agent.params, self.task.obs_spec, what="state.params", same_dtypes=False)
        if self.normalize_obs != isinstance(agent.obs_moments, Moments):
            allowed = f"{'Moments' if self.normalize_obs else '()'}, as normalize_obs={self.normalize_obs}"
            raise ConfigError(f"state.obs_moments: must be {allowed}; the state is of another configuration")

    def checked(self, params: Any, obs: Any, *, what: str = "params", same_dtypes: bool = True) -> Any:
        """The parameters, which must be like fresh ones for observations like `obs`.

        Raises:
            ConfigError: they differ in structure, shapes or dtypes; it says where.
        """
        expected = jax.eval_shape(self.init, jax.random.key(0), obs)
        found, needed = (dict(jax.tree_util.tree_leaves_with_path(tree)) for tree in (params, expected))
        for path, like in needed.items():
            leaf = found.get(path, ())
            is_like = path in found and jnp.shape(leaf) == like.shape
            if not is_like or (same_dtypes and jnp.result_type(leaf) != like.dtype):
                name, dtype = jax.tree_util.keystr(path), like.dtype
                raise ConfigError(f"{what}: must have an array {name} of shape {like.shape} and dtype {dtype}")
        structure: Any = jax.tree.structure(params)
        if structure != jax.tree.structure(expected):
            raise ConfigError(f"{what}: must be the {len(needed)} arrays of the networks and no more, not {structure}")
        return params

    def step(self, agent: Agent, obs: Any, memory: Any = ()) -> tuple[Policy, Any]:
        """The policy at observations `[B, ...]` with memories `[B, ...]`, and the memories after them."""
        apply: Any = partial(self.module.apply, agent.params)
        if not isinstance(self.network, Network):
            apply = jax.vmap(apply)  # the built-in networks take all rows at once
        x = jax.vmap(partial(self._read, agent))(obs)
        distribution, value, *rest = apply(x, memory) if self.is_recurrent else apply(x)
        return Policy(self._masked(distribution, obs, num_axes=1), value), rest[0] if rest else memory

    def sequence(self, agent: Agent, obs: Any, done: Array, memory: Any) -> Policy:
        """The policy at all steps `[T, N, ...]` of `N` sequences, read from the memories `[N, ...]` before the first.

        Args:
            done: `[T, N]`: where an episode ended, after which the memory begins anew.
        """
        apply: Any = partial(self.module.apply, agent.params, method="sequence")
        if not isinstance(self.network, Network):
            apply = jax.vmap(apply, in_axes=(1, 1, 0), out_axes=1)
        x = jax.vmap(jax.vmap(partial(self._read, agent)))(obs)
        distribution, value = apply(x, done, memory)
        return Policy(self._masked(distribution, obs, num_axes=2), value)

    def act(self, agent: Agent, *, table: bool) -> Act:
        """The agent's policy as a function of observations and memories `[B, ...]`.

        With `table` the networks are evaluated once on all of the task's observations, and the function is a look-up in
        that: the same numbers and, through the look-up, the same gradients.
        """
        if not table:
            return partial(self.step, agent)
        rows = self.table(agent)
        return lambda obs, memory: (jax.tree.map(lambda leaf: leaf[obs], rows), memory)

    def table(self, agent: Agent) -> Policy:
        """The policy at every one of `S` observations, `[S, ...]`."""
        return self.step(agent, jnp.arange(self.task.num_observations))[0]

    @property
    def can_tabulate(self) -> bool:
        """Whether the policy can be a table: observations are indices, and there is no memory."""
        return self.task.num_observations is not None and not self.is_recurrent

    def uses_table(self, num_rows: int) -> bool:
        """Whether a table of all observations is smaller than `num_rows` evaluations."""
        num_observations = self.task.num_observations
        return self.can_tabulate and num_observations is not None and num_observations < num_rows

    def evaluate_actions(
        self, agent: Agent, obs: Any, action: Array, done: Any = (), memory: Any = ()
    ) -> tuple[Array, Array, Array]:
        """`(log_prob, entropy, value)` `[B]` of actions taken at observations, to be differentiated by the parameters.

        Networks with a memory take `B` sequences of `T` steps each, `[B, T, ...]`, and the memories `[B, ...]` before.
        """
        if self.is_recurrent:
            steps = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), (obs, action, done))
            policy = self.sequence(agent, steps[0], steps[2], memory)
            return jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), _of_actions(policy, steps[1]))
        if not self.uses_table(len(action)):
            return _of_actions(self.step(agent, obs)[0], action)
        table = self.table(agent)
        distribution: Any = table.distribution
        if not isinstance(distribution, Categorical):
            return _of_actions(jax.tree.map(lambda leaf: leaf[obs], table), action)
        # A table of observations and actions, although entropy and value are the same for all actions: the gradient of
        # a look-up adds one sample after the other, and waits less the more entries they are spread over.
        shape = distribution.log_probs.shape
        by_obs = distribution.log_probs, distribution.entropy[:, None], table.value[:, None]
        index = obs * shape[1] + action
        return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, shape).reshape(-1)[index], by_obs)

    def values(
        self, agent: Agent, transitions: Transition, before: Runner, after: Runner, *, piece: int
    ) -> tuple[Array, Array]:
        """`(value, next_value)`, `[T, N]` each: of what every transition saw, and of its true successor.

        Where an episode goes on, the successor is what the next row saw. Where it terminated, there is none, and any
        number will do. Only a time limit cuts an episode off before its successor is seen; where that happened, the
        successors are evaluated as well.

        Args:
            before: the runners `[N]` before the rollout.
            after: those that it ended with.
            piece: observations that the networks take at once, a divisor of `T * N`.
        """
        t = transitions
        if self.is_recurrent:
            value = self.sequence(agent, t.obs, t.done, before.memory).value
            successors = partial(self._successors, agent, t, before.memory)
            last = self.step(agent, after.obs, after.memory)[0].value
        else:
            act = self.act(agent, table=self.uses_table(t.done.size))
            value = self._in_pieces(lambda obs: act(obs, ())[0].value, (t.obs,), piece)
            successors = partial(self._in_pieces, lambda obs: act(obs, ())[0].value, (t.next_obs,), piece)
            last = act(after.obs, ())[0].value
        of_successors = jax.lax.cond(jnp.any(t.done & ~t.terminated), successors, lambda: value)
        return value, jnp.where(t.done, of_successors, jnp.concatenate([value[1:], last[None]]))

    def log_prob(self, agent: Agent, transitions: Transition, memory: Any, *, piece: int) -> Array:
        """Log-probabilities `[T, N]` of the actions that were taken.

        Args:
            memory: `[N, ...]`, the agent's before the rollout.
            piece: observations that the networks take at once, a divisor of `T * N`.
        """
        t = transitions
        if self.is_recurrent:
            return self.sequence(agent, t.obs, t.done, memory).distribution.log_prob(t.action)
        act = self.act(agent, table=self.uses_table(t.done.size))
        return self._in_pieces(
            lambda obs, action: act(obs, ())[0].distribution.log_prob(action), (t.obs, t.action), piece
        )

    def memory_after(self, agent: Agent, transitions: Transition, memory: Any) -> Any:
        """The agent's memory `[N, ...]` after a rollout, from that before it."""
        if not self.is_recurrent:
            return memory

        def read(memory: Any, t: Transition) -> tuple[Any, None]:
            return reset_memory(self.step(agent, t.obs, memory)[1], t.done, self.initial_memory), None

        return jax.lax.scan(read, memory, transitions)[0]

    def _in_pieces(self, read: Callable[..., Array], inputs: tuple[Any, ...], piece: int) -> Array:
        """What is read of inputs `[T, N, ...]`, `[T, N]`."""
        num_steps, num_envs = jax.tree.leaves(inputs)[0].shape[:2]
        if self.uses_table(num_steps * num_envs):
            return read(*inputs)
        pieces = jax.tree.map(lambda leaf: leaf.reshape(-1, piece, *leaf.shape[2:]), inputs)
        return jax.lax.map(lambda piece: read(*piece), pieces).reshape(num_steps, num_envs)

    def _successors(self, agent: Agent, transitions: Transition, memory: Any) -> Array:
        """The values of the true successors `[T, N]`, each read with the memory after its transition."""
        initial = self.initial_memory

        def read(memory: Any, t: Transition) -> tuple[Any, Array]:
            _, memory = self.step(agent, t.obs, memory)
            value = self.step(agent, t.next_obs, memory)[0].value
            return reset_memory(memory, t.done, initial), value

        return jax.lax.scan(read, memory, transitions)[1]

    def microbatch_size(self, params: Any, num_rows: int) -> int:
        """How many of `num_rows` samples the networks take at once, a divisor.

        On a CPU as many as keep the activations in its caches: those of a large minibatch would travel to memory and
        back at every layer, which takes longer than the arithmetic. Rows that cannot be divided well stay whole.
        """
        if jax.default_backend() != "cpu" or self.uses_table(num_rows) or self.is_recurrent:
            return num_rows
        widest = max(max(leaf.shape, default=1) for leaf in jax.tree.leaves(params))
        fewest = num_rows * widest / CACHED_ACTIVATIONS
        candidates = range(math.ceil(fewest), math.ceil(4 * fewest))
        return num_rows // next((n for n in candidates if num_rows % n == 0), 1)

    def in_model(self, agent: Agent, model: TabularModel) -> tuple[Array, Array]:
        """The policy in every state of the task's model: probabilities `[S, A]` and the critic's values `[S]`.

        Raises:
            ConfigError: the policy is not a function of the state alone.
        """
        if self.is_recurrent:
            allowed = "one without a memory, to be compared with the exact solution"
            raise ConfigError.of("network", self.network, allowed)
        policy, _ = self.step(agent, model.obs)
        distribution: Any = policy.distribution
        return jnp.exp(distribution.log_probs), policy.value

    def expected_return(self, agent: Agent) -> Array:
        """What an episode of the sampled policy returns, exactly, see `planning.expected_return`.

        Raises:
            ConfigError: the task's model is not known.
        """
        model = self.task.tabular_model()
        policy, _ = self.in_model(agent, model)
        return expected_return(model, policy, self.task.horizon).episode_return

    def network_input(self, obs: Any) -> Any:
        """What the networks read of one observation: its features, or the observation itself."""
        if isinstance(self.network, Network) and self.network.reads_features:
            return self.task.features(obs)
        return as_floats(self.task.observation_space, obs) if self.normalize_obs else obs

    def _read(self, agent: Agent, obs: Any) -> Any:
        x = self.network_input(obs)
        return normalize(agent.obs_moments, x) if self.normalize_obs else x

    def _masked(self, distribution: Distribution, obs: Any, num_axes: int) -> Distribution:
        """The distribution restricted to the available actions."""
        mask_of = self.task.action_mask
        for _ in range(num_axes):
            mask_of = jax.vmap(mask_of)
        mask = mask_of(obs)
        return distribution if mask is None else distribution.masked(mask)

    def weight(self, obs: Any) -> Any:
        """How much the steps at observations `[T, N, ...]` count in learning, `[T, N]`; () if all alike.

        Where a single action is available there is nothing to decide, and what follows says nothing about the policy.
        """
        if self.task.always_decides:
            return ()
        return jax.vmap(jax.vmap(self.task.decides))(obs).astype(jnp.float32)

    def _check_pure(self, params: Any, *inputs: Any) -> None:
        """Refuse a user's network that changes its variables as it reads, or wants random numbers."""
        try:
            jax.eval_shape(self.module.apply, params, *inputs)
        except FlaxError as error:
            what = "must be a function of its variables and of what it reads, and change nothing"
            said = str(error).partition(" (http")[0]
            raise ConfigError(f"network={type(self.network).__name__}: {what}: {said}") from None

    def _check_outputs(self, outputs: Any) -> None:
        """Refuse what a user's network gives for one observation, unless it is what the learner reads."""
        name, space = f"network={type(self.network).__name__}", self.task.action_kind
        parts = ("distribution", "value", "memory") if self.is_recurrent else ("distribution", "value")
        if not (isinstance(outputs, tuple) and len(outputs) == len(parts) and isinstance(outputs[0], Distribution)):
            raise ConfigError(f"{name}: must give ({', '.join(parts)}) for one observation")
        distribution, value, *memory = outputs
        if jnp.shape(value) != ():
            raise ConfigError(f"{name}: its value must be a single number, but has shape {jnp.shape(value)}")
        found, expected = distribution.mode().shape, self.task.event_shape
        if found != expected:
            raise ConfigError(f"{name}: its actions must have shape {expected}, for {space}, but have {found}")
        if isinstance(distribution, Categorical) and distribution.log_probs.shape != (space.n,):
            raise ConfigError(f"{name}: must choose from {space.n} actions, not {distribution.log_probs.shape[-1]}")
        if memory and _types(memory[0]) != _types(self.initial_memory):
            raise ConfigError(f"{name}: its memory must have the structure, shapes and dtypes of initial_memory()")


def trained(params: Any) -> tuple[Any, Any]:
    """What of flax's variables is trained, the collection "params", and the others, which stay as they are."""
    learned = {name: tree for name, tree in params.items() if name == "params"}
    return learned, {name: tree for name, tree in params.items() if name != "params"}


def _of_actions(policy: Policy, action: Array) -> tuple[Array, Array, Array]:
    return policy.distribution.log_prob(action), policy.distribution.entropy, policy.value


def _types(tree: Any) -> tuple[Any, Any]:
    """The structure of a pytree, and the shapes and dtypes of its leaves."""
    return jax.tree.structure(tree), [(jnp.shape(leaf), jnp.result_type(leaf)) for leaf in jax.tree.leaves(tree)]
