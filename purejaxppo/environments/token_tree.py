"""Responses of a few tokens, token by token, as a tree small enough to know the best policy."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gymnax.environments import spaces
from jax import Array

from purejaxppo.environments.base import Environment
from purejaxppo.errors import ConfigError
from purejaxppo.planning import TabularModel
from purejaxppo.settings import COUNT, Constraint, Settings, check_static, traced

END = 0  # the token that ends a response
MAX_PREFIXES = 2**20
LENGTH = Constraint("an integer >= 1 and <= 2**10", lambda x: (x >= 1) & (x <= 2**10), number=int)
SEVERAL = Constraint("an integer >= 2 and <= 2**20", lambda x: (x >= 2) & (x <= 2**20), number=int)

# From the tokens of a response `[T]`, int32, filled up with `END`, and the parameters of the score, to a number.
Score = Callable[[Array, Any], Array]


def rises(tokens: Array, score_params: Any) -> Array:
    """How often a token is larger than the one before it."""
    return jnp.sum(tokens[1:] > tokens[:-1], dtype=jnp.float32)


class TokenTreeParams(Settings):
    """Traced parameters of a token tree: `jax.vmap` maps over every one of them.

    Raises:
        ConfigError: a field is unknown or its value is not allowed. Tracers are not checked.
    """

    score_params: Any = traced(None, "parameters of the score, a pytree of arrays")
    max_steps_in_episode: int | Array = traced(100, "tokens after which a response is cut short unscored", COUNT)


class TokenTreeState(NamedTuple):
    """A response so far."""

    tokens: Array  # [T], int32, filled up with END
    prefix: Array  # [], int32, their number, see TokenTree
    time: Array  # [], int32, how many they are


@dataclass(frozen=True)
class TokenTree(Environment):
    """A gymnax environment in which a response is written, one token with each step, and scored when it is complete.

    It is complete with the token 0, the end, or with its last token of `length`; that step's reward is its score, all
    others are 0. So an episode is a sequence decision problem as a language model's is, and one whose optimum is known:
    the observation is the number of the prefix, `Discrete(S)`, level by level, and `S` is at most 2^20.

    Attributes:
        num_tokens: the vocabulary's size, the end included.
        length: of the longest response, in tokens, at most 1,024.
        score: a module-level function from the tokens of a response `[length]`, int32, filled up with 0, and
            `TokenTreeParams.score_params` to a number; by default how often a token is larger than the one before.

    Raises:
        ConfigError: a field's value is not allowed, or there are too many prefixes.
    """

    num_tokens: int = 4
    length: int = 5
    score: Score = rises

    def __post_init__(self) -> None:
        check_static("num_tokens", self.num_tokens, SEVERAL)
        check_static("length", self.length, LENGTH)
        if not callable(self.score):
            raise ConfigError.of("score", self.score, "a module-level function from tokens and parameters to a number")
        if sum((self.num_tokens - 1) ** size for size in range(self.length)) > MAX_PREFIXES:
            allowed = f"smaller, as num_tokens={self.num_tokens} make more than 2**20 prefixes"
            raise ConfigError.of("length", self.length, allowed)

    @property
    def name(self) -> str:
        return "TokenTree"

    @property
    def default_params(self) -> TokenTreeParams:
        return TokenTreeParams(max_steps_in_episode=self.length)

    @property
    def num_actions(self) -> int:
        return self.num_tokens

    def action_space(self, params: TokenTreeParams | None = None) -> spaces.Discrete:
        return spaces.Discrete(self.num_tokens)

    def observation_space(self, params: TokenTreeParams | None = None) -> spaces.Discrete:
        return spaces.Discrete(len(self.prefixes))

    @cached_property
    def prefixes(self) -> np.ndarray:
        """The tokens of every prefix `[S, T]`, int32, filled up with 0; the empty one is the first."""
        levels = [np.zeros((1, self.length), np.int32)]
        for position in range(self.length - 1):
            longer = np.repeat(levels[-1], self.num_tokens - 1, axis=0)
            longer[:, position] = np.tile(np.arange(1, self.num_tokens), len(levels[-1]))
            levels.append(longer)
        return np.concatenate(levels)

    def tabular_model(self, params: TokenTreeParams) -> TabularModel:
        """One state per prefix."""
        num_prefixes = len(self.prefixes)
        sizes = jnp.asarray(np.sum(self.prefixes != END, axis=1), jnp.int32)
        states = TokenTreeState(jnp.asarray(self.prefixes), jnp.arange(num_prefixes, dtype=jnp.int32), sizes)

        def write(state: TokenTreeState, token: Array) -> tuple[Array, Array, Array]:
            after, reward, is_complete = self._write(state, token, params)
            return after.prefix, reward, is_complete

        tokens = jnp.arange(self.num_tokens, dtype=jnp.int32)
        outcomes = jax.vmap(jax.vmap(write, (None, 0)), (0, None))(states, tokens)
        next_state, reward, terminated = (leaf[..., None] for leaf in outcomes)
        return TabularModel(
            next_state=next_state,
            probability=jnp.ones(reward.shape),
            reward=reward,
            terminated=terminated,
            start=jnp.zeros(num_prefixes).at[0].set(1),
            mask=jnp.ones(reward.shape[:2], bool),
            obs=states.prefix,
        )

    def reset_env(self, key: Array, params: TokenTreeParams) -> tuple[Array, TokenTreeState]:
        zero = jnp.zeros((), jnp.int32)
        return zero, TokenTreeState(jnp.zeros(self.length, jnp.int32), zero, zero)

    def step_env(
        self, key: Array, state: TokenTreeState, action: Any, params: TokenTreeParams
    ) -> tuple[Array, TokenTreeState, Array, Array, dict[Any, Any]]:
        state, reward, is_complete = self._write(state, jnp.asarray(action, jnp.int32), params)
        return state.prefix, state, reward, is_complete, {}

    def observe(self, key: Array, state: TokenTreeState, action: Any, params: TokenTreeParams) -> Array:
        return state.prefix

    def is_terminated(self, state: TokenTreeState, params: TokenTreeParams) -> Array:
        last = state.tokens[jnp.maximum(state.time - 1, 0)]
        return (state.time > 0) & ((last == END) | (state.time == self.length))

    def _write(
        self, state: TokenTreeState, token: Array, params: TokenTreeParams
    ) -> tuple[TokenTreeState, Array, Array]:
        """The response with one more token, the reward, and whether it is complete."""
        tokens = state.tokens.at[state.time].set(token)
        is_complete = (token == END) | (state.time + 1 == self.length)
        score = jnp.asarray(self.score(tokens, params.score_params), jnp.float32)
        # A complete response has no number: it keeps that of the prefix that it came from.
        child = state.prefix * (self.num_tokens - 1) + token
        prefix = jnp.where(is_complete, state.prefix, child)
        return TokenTreeState(tokens, prefix, state.time + 1), jnp.where(is_complete, score, 0), is_complete
