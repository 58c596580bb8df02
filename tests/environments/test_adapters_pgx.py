"""The adapter to pgx against the package itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purejaxppo import Config, ConfigError, train
from purejaxppo.environments import Task, make, make_task

pgx = pytest.importorskip("pgx")

from purejaxppo.environments.adapters import pgx as adapter  # noqa: E402

pytestmark = pytest.mark.usefixtures("promoted_ranks")


def play(env, num_steps, params=None, seed=0):
    """The start, the actions, and the `Step` of each; the actions are random but available."""
    params = env.default_params if params is None else params
    key_reset, *keys = jax.random.split(jax.random.key(seed), num_steps + 1)
    obs, state = Task(env, params).reset(key_reset)

    def step(carry, key):
        obs, state = carry
        key_action, key_step = jax.random.split(key)
        action = jax.random.categorical(key_action, jnp.log(Task(env, params).action_mask(obs)))
        result = Task(env, params).step(key_step, state, action)
        return (result.obs, result.state), (action, result)

    _, (actions, steps) = jax.jit(lambda carry, keys: jax.lax.scan(step, carry, keys))((obs, state), jnp.stack(keys))
    return (obs, state), actions, steps


@pytest.mark.few(3)
@pytest.mark.parametrize("game", adapter.names())
def test_steps_are_those_of_the_package(game):
    env, raw = adapter.make(game), pgx.make(game)
    params = env.default_params
    key_reset, *keys = jax.random.split(jax.random.key(1), 9)
    (obs, state), raw_state = jax.jit(env.reset_env)(key_reset, params), jax.jit(raw.init)(key_reset)
    step, raw_step = jax.jit(env.step_env), jax.jit(raw.step)
    for i, key in enumerate(keys):
        action = jnp.argmax(jnp.roll(state.legal_action_mask, -i)) + i
        action = jnp.int32(action % env.num_actions)
        obs, state, reward, terminated, _ = step(key, state, action, params)
        player = raw_state.current_player  # whose move it is
        raw_state = raw_step(raw_state, action, key)
        jax.tree.map(np.testing.assert_array_equal, state, raw_state)
        np.testing.assert_array_equal(obs["observation"], raw_state.observation)
        np.testing.assert_array_equal(env.action_mask(obs, params), raw_state.legal_action_mask)
        assert reward == raw_state.rewards[player]
        assert terminated == raw_state.terminated
        assert not env.is_truncated(state, params)


@pytest.mark.parametrize("game", ["minatar-breakout", "2048"])
def test_episodes_end_by_termination_and_reset_on_the_same_step(game):
    env, raw = make(f"pgx/{game}"), pgx.make(game)
    (_, start), actions, steps = play(env, 400)
    ends = np.flatnonzero(steps.done)
    assert len(ends) >= 2
    np.testing.assert_array_equal(steps.terminated, steps.done)
    np.testing.assert_array_equal(steps.state._step_count[ends], 0)
    assert not steps.state.terminated.any()
    # The first episode again in the package, which does not reset: its last state is the true successor.
    _, *keys = jax.random.split(jax.random.key(0), 401)
    state, raw_step = start, jax.jit(raw.step)
    for key, action in zip(keys[: ends[0] + 1], actions, strict=False):
        key_step, _ = jax.random.split(jax.random.split(key)[1])  # as gymnax splits it
        state = raw_step(state, action, key_step)
    assert state.terminated
    np.testing.assert_array_equal(steps.next_obs["observation"][ends[0]], state.observation)
    assert not np.array_equal(steps.obs["observation"][ends[0]], state.observation)
    assert steps.state._step_count[ends[0] + 1] == 1


def test_time_limit_of_ours_truncates():
    env = make("pgx/minatar-asterix")
    _, _, steps = play(env, 10, env.default_params.replace(max_steps_in_episode=4))
    np.testing.assert_array_equal(np.flatnonzero(steps.done), [3, 7])
    assert not steps.terminated.any()
    _, _, steps = play(env, 10)
    assert not steps.done.any()


def test_freeway_calls_its_time_limit_a_termination():
    env = make("pgx/minatar-freeway")
    _, state = Task(env, env.default_params).reset(jax.random.key(0))
    assert state._terminate_timer == 2500
    last = state.replace(_terminate_timer=jnp.int32(0))
    for before, ends in ((state, False), (last, True)):
        step = Task(env, env.default_params).step(jax.random.key(0), before, jnp.int32(0))
        assert (step.terminated, step.done) == (ends, ends)


def test_mask_of_2048_and_features():
    env = make("pgx/2048")
    (obs, state), _, steps = play(env, 60)
    masks = np.asarray(env.action_mask(steps.obs, env.default_params))
    np.testing.assert_array_equal(masks, steps.state.legal_action_mask)
    assert masks.any(-1).all()
    assert not masks.all()
    features = np.asarray(make_task(env).features(obs))
    np.testing.assert_array_equal(features.reshape(16, 31).argmax(-1), state._board)
    assert features.dtype == np.float32
    space = env.observation_space()
    assert {name: part.shape for name, part in space.spaces.items()} == jax.tree.map(jnp.shape, obs)


@pytest.mark.parametrize("game", ["go_9x9", "sparrow_mahjong"])
def test_other_games_of_several_players_are_refused(game):
    with pytest.raises(ConfigError, match=rf"pgx/{game}.*one player, or one of .*, but this one has [23] players"):
        Config(env=f"pgx/{game}")


LINES = [[0, 1, 2], [3, 4, 5], [6, 7, 8], [0, 3, 6], [1, 4, 7], [2, 5, 8], [0, 4, 8], [2, 4, 6]]


def test_both_players_of_tic_tac_toe_are_the_agent():
    """Seen by the one who moves next, paid to the one who has moved."""
    (obs, _), actions, steps = play(make("pgx/tic_tac_toe"), 200)
    board, results = [np.zeros(9, bool), np.zeros(9, bool)], []  # of the one who moves, and of the other
    seen = jax.tree.map(lambda first, later: np.concatenate([first[None], later]), obs, steps.obs)
    for i, action in enumerate(np.asarray(actions)):
        np.testing.assert_array_equal(seen["observation"][i].reshape(9, 2).T, board)
        np.testing.assert_array_equal(seen["legal_action_mask"][i], ~(board[0] | board[1]))
        board[0][action] = True
        has_won = any(board[0][line].all() for line in LINES)
        is_over = has_won or np.all(board[0] | board[1])
        assert (steps.reward[i], steps.terminated[i], steps.done[i]) == (has_won, is_over, is_over)
        board = board[::-1]
        np.testing.assert_array_equal(steps.next_obs["observation"][i].reshape(9, 2).T, board)
        if is_over:
            board = [np.zeros(9, bool), np.zeros(9, bool)]
            results.append(has_won)
    assert {False, True} == set(results)


def test_nobody_loses_connect_four_by_a_move_of_their_own():
    _, _, steps = play(make("pgx/connect_four"), 200)
    reward, done = np.asarray(steps.reward), np.asarray(steps.done)
    assert done.sum() >= 4
    assert set(reward[~done]) == {0}
    assert {1} <= set(reward[done]) <= {0, 1}


@pytest.mark.slow
def test_learns_breakout():
    config = Config(env="pgx/minatar-breakout", num_envs=64, num_steps=64, total_timesteps=2_048_000, lr=1e-3)
    _, metrics = train(config, jax.random.key(0))
    assert metrics["episode_return"][0] < 1  # at random
    assert np.mean(metrics["episode_return"][-20:]) > 6
