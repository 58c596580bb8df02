"""Finite environments as arrays, those of gymnax included."""

import copy
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gymnax.environments.bsuite.catch import Catch
from gymnax.environments.bsuite.catch import EnvState as CatchState
from gymnax.environments.misc.frozen_lake import START, FrozenLake
from gymnax.environments.misc.frozen_lake import EnvState as FrozenLakeState
from gymnax.environments.misc.rooms import EnvState as FourRoomsState
from gymnax.environments.misc.rooms import FourRooms
from jax import Array

from purejaxppo.environments.base import Environment, wrapped
from purejaxppo.errors import ConfigError
from purejaxppo.planning import TabularModel


def tabulate(env: Any, params: Any) -> TabularModel | None:
    """`env` as arrays, or None if it is not known how.

    Known are `GridWorld`, every `Environment` that implements `tabular_model`, and gymnax's `FrozenLake-misc`,
    `FourRooms-misc` and `Catch-bsuite`, and all of them under gymnax's `LogWrapper` and `FlattenObservationWrapper`.
    `params` may be traced, so `jax.vmap` maps over them.
    """
    if isinstance(env, Environment):
        return env.tabular_model(params)
    wrappers = sys.modules.get("gymnax.wrappers.purerl")  # nobody has one who has not imported them
    if wrappers is not None and type(env) in (wrappers.LogWrapper, wrappers.FlattenObservationWrapper):
        model = tabulate(wrapped(env), params)
        if model is not None and type(env) is wrappers.FlattenObservationWrapper:
            model = model._replace(obs=model.obs.reshape(len(model.obs), -1))
        return model
    known: dict[type, Callable[[Any, Any], TabularModel]] = {
        FrozenLake: _frozen_lake,
        FourRooms: _four_rooms,
        Catch: _catch,
    }
    return known[type(env)](env, params) if type(env) in known else None


def is_tabular(env: Any) -> bool:
    """Whether `tabulate` knows the environment."""
    return jax.eval_shape(lambda: tabulate(env, env.default_params)) is not None


class _Moves(NamedTuple):
    """What every action does in every state where nothing is left to chance."""

    next_state: Array  # [S, A]
    reward: Array  # [S, A]
    terminated: Array  # [S, A]


def _moves(env: Any, params: Any, states: Any, index: Callable[[Any], Array]) -> _Moves:
    """By the environment's own `step_env`, from each of `states` `[S]`; `index` numbers a state."""

    def move(state: Any, action: Array) -> _Moves:
        _, after, reward, *_ = env.step_env(jax.random.key(0), state, action, params)
        terminated = env.is_terminated(after, params)  # what `step_env` returns may be a time limit
        return _Moves(index(after), jnp.asarray(reward, jnp.float32), terminated)

    actions = jnp.arange(env.num_actions)
    return jax.vmap(jax.vmap(move, in_axes=(None, 0)), in_axes=(0, None))(states, actions)


def _model(moves: _Moves, noise: Any, start: Any, obs: Array) -> TabularModel:
    """The model in which action `a` turns out as action `k` with probability `noise[a, k]`."""
    num_states, num_actions = moves.reward.shape
    outcomes = jax.tree.map(lambda leaf: jnp.repeat(leaf[:, None], num_actions, axis=1), moves)
    return TabularModel(
        next_state=jnp.asarray(outcomes.next_state, jnp.int32),
        probability=jnp.broadcast_to(jnp.asarray(noise, jnp.float32), outcomes.reward.shape),
        reward=outcomes.reward,
        terminated=outcomes.terminated,
        start=jnp.asarray(start, jnp.float32),
        mask=jnp.ones((num_states, num_actions), bool),
        obs=obs,
    )


def _frozen_lake(env: FrozenLake, params: Any) -> TabularModel:
    """One state per tile; on slippery ice a move may turn out as one of its neighbours."""
    position = jnp.arange(env.n_states)
    states = FrozenLakeState(position=position, time=jnp.zeros_like(position))
    calm = copy.copy(env)
    calm.is_slippery = False
    straight = np.eye(4)
    beside = (np.roll(straight, 1, axis=1) + np.roll(straight, -1, axis=1)) / 2
    success = env.success_rate if env.is_slippery else 1.0
    start = np.asarray(env.desc).reshape(-1) == START
    moves = _moves(calm, params, states, lambda state: state.position)
    return _model(moves, success * straight + (1 - success) * beside, start, position)


def _four_rooms(env: FourRooms, params: Any) -> TabularModel:
    """One state per open position and possible goal; with some probability an action turns out at random."""
    if isinstance(params.resample_goal_pos, jax.core.Tracer):
        raise ConfigError("resample_goal_pos: must be concrete, not traced: it decides the number of states")
    positions = np.asarray(env.coords)
    goals = positions if params.resample_goal_pos else np.asarray(env.goal_fixed)[None]
    goal, position = np.indices((len(goals), len(positions))).reshape(2, -1)
    number = np.zeros(env.env_map.shape, int)
    number[tuple(positions.T)] = np.arange(len(positions))
    first = np.zeros(env.env_map.shape, int)
    first[tuple(goals.T)] = np.arange(len(goals)) * len(positions)
    index = jnp.asarray(first), jnp.asarray(number)

    states = FourRoomsState(
        pos=jnp.asarray(positions[position]), goal=jnp.asarray(goals[goal]), time=jnp.zeros(len(goal), jnp.int32)
    )
    moves = _moves(
        env,
        params.replace(fail_prob=0.0),
        states,
        lambda state: index[0][tuple(state.goal)] + index[1][tuple(state.pos)],
    )
    # An action is drawn anew, from all four, with this probability.
    anew = jnp.clip(jnp.asarray(params.fail_prob) * 4 / 3, 0, 1)
    elsewhere = (positions[position] != goals[goal]).any(axis=1) / (len(positions) - 1)
    fixed = (positions[position] == np.asarray(env.pos_fixed)).all(axis=1)
    start = jnp.where(params.resample_init_pos, elsewhere, fixed) / len(goals)
    return _model(moves, (1 - anew) * jnp.eye(4) + anew / 4, start, jax.vmap(env.get_obs)(states))


def _catch(env: Catch, params: Any) -> TabularModel:
    """One state per place of the ball and column of the paddle; only the ball's first column is left to chance."""
    shape = (env.rows, env.columns, env.columns)
    ball_y, ball_x, paddle_x = jnp.asarray(np.indices(shape).reshape(3, -1))
    states = CatchState(
        ball_x=ball_x,
        ball_y=ball_y,
        paddle_x=paddle_x,
        paddle_y=jnp.full_like(ball_x, env.rows - 1),
        prev_done=jnp.zeros(ball_x.shape, bool),
        time=jnp.zeros_like(ball_x),
    )

    def index(state: Any) -> Array:
        # From the bottom row the ball would fall off the board, but no episode goes on there.
        row = jnp.minimum(state.ball_y, env.rows - 1)
        return (row * env.columns + state.ball_x) * env.columns + state.paddle_x

    start = (ball_y == 0) & (paddle_x == env.columns // 2)
    moves = _moves(env, params, states, index)
    return _model(moves, np.eye(env.num_actions), start / env.columns, jax.vmap(env.get_obs)(states))
