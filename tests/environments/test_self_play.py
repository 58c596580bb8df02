"""Tic-tac-toe by self-play: no opponent beats what it learns. All of them are tried, by going through all positions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purejaxppo import MLP, Config, act, gae, init, train
from purejaxppo.environments import make

pytest.importorskip("pgx")
pytestmark = pytest.mark.usefixtures("promoted_ranks")

LINES = [(0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6)]
CELLS = frozenset(range(9))
EMPTY = frozenset(), frozenset()  # a position: the cells of the player whose move it is, and those of the other one


def has_won(cells):
    return any(cells.issuperset(line) for line in LINES)


def is_over(position):
    own, other = position
    return has_won(other) or own | other == CELLS


def free(position):
    return sorted(CELLS - position[0] - position[1])


def after(position, cell):
    own, other = position
    return other, own | {cell}


@functools.cache
def positions():
    """All that a game can reach."""
    seen, to_do = set(), [EMPTY]
    while to_do:
        position = to_do.pop()
        if position not in seen:
            seen.add(position)
            to_do += [] if is_over(position) else [after(position, cell) for cell in free(position)]
    return seen


@functools.cache
def value(position):
    """What the player whose move it is gets if both play as well as they can."""
    if is_over(position):
        return -1 if has_won(position[1]) else 0
    return max(-value(after(position, cell)) for cell in free(position))


def best_move(position):
    return max(free(position), key=lambda cell: -value(after(position, cell)))


def worst_results(move):
    """What a player gets against the opponent who plays best against them: as the first and as the second player.

    `move` is from a position to the player's cell.
    """

    @functools.cache
    def result(position, is_players_turn):
        if is_over(position):
            return 0 if not has_won(position[1]) else -1 if is_players_turn else 1
        if is_players_turn:
            return result(after(position, move(position)), False)
        return min(result(after(position, cell), True) for cell in free(position))

    return result(EMPTY, True), result(EMPTY, False)


def is_first(position):
    """Whether it is the first player's move."""
    return len(position[0]) == len(position[1])


def seen(position):
    """What the environment would show."""
    own, other = (np.isin(np.arange(9), list(cells)) for cells in position)
    board = np.stack([own, other], axis=-1).reshape(3, 3, 2)
    return {"observation": board, "legal_action_mask": ~(own | other)}


def greedy_moves(config, state):
    """The most probable move in every position, as a function."""
    open_ones = [position for position in positions() if not is_over(position)]
    cells, _ = act(config, state, jax.tree.map(lambda *leaves: np.stack(leaves), *map(seen, open_ones)))
    return dict(zip(open_ones, np.asarray(cells).tolist(), strict=True)).__getitem__


def test_there_are_as_many_positions_as_is_known_and_nobody_can_force_a_win():
    assert len(positions()) == 5478
    assert sum(map(is_over, positions())) == 958
    assert value(EMPTY) == 0
    assert value(after(after(EMPTY, 0), 1)) == 1  # a corner, answered beside it: lost


@pytest.mark.parametrize(
    ("move", "expected"),
    [
        (best_move, (0, 0)),
        (lambda position: free(position)[0], (-1, -1)),
        (lambda position: best_move(position) if is_first(position) else free(position)[0], (0, -1)),
        (lambda position: free(position)[0] if is_first(position) else best_move(position), (-1, 0)),
    ],
    ids=["the best", "the first free cell", "the best as the first player", "the best as the second player"],
)
def test_worst_results_of_known_players(move, expected):
    assert worst_results(move) == expected


def test_a_player_who_may_be_beaten_by_one_opponent_alone_is_found_out():
    mistake = after(after(EMPTY, 4), 0)  # of the best player's game, changed in this one position

    def move(position):
        return 1 if position == after(mistake, 8) else best_move(position)

    assert value(after(mistake, 8)) == 0
    assert value(after(after(mistake, 8), 1)) == 1  # the other one gets two lines at once
    assert worst_results(move) == (0, -1)


@pytest.mark.parametrize("game", range(4))
def test_the_environment_plays_these_rules(game):
    env = make("pgx/tic_tac_toe")
    params, step = env.default_params, jax.jit(env.step_env)
    obs, state = env.reset_env(jax.random.key(game), params)
    position, rng, over = EMPTY, np.random.default_rng(game), False
    while not over:
        for name, expected in seen(position).items():
            np.testing.assert_array_equal(obs[name], expected)
        cell = int(rng.choice(free(position)))
        position = after(position, cell)
        obs, state, reward, terminated, _ = step(jax.random.key(0), state, jnp.int32(cell), params)
        over = is_over(position)
        assert terminated == over
        assert reward == has_won(position[1])  # of the one who has moved


def alternating(*steps, gamma, gae_lambda):
    """What comes next is the opponent's, and counts against."""
    return gae(*steps, gamma=-gamma, gae_lambda=gae_lambda)


@pytest.mark.slow
def test_self_play_learns_what_no_opponent_can_beat():
    config = Config(
        env="pgx/tic_tac_toe",
        advantage=alternating,
        gamma=1.0,
        gae_lambda=0.9,
        num_envs=128,
        num_steps=32,
        total_timesteps=1_000_000,
        lr=2e-3,
        ent_coef=0.4,
        network=MLP(activation="relu"),
    )
    keys = jax.random.split(jax.random.key(0), 4)
    states, _ = jax.jit(jax.vmap(train, in_axes=(None, 0)))(config, keys)
    for i, key in enumerate(keys):
        assert worst_results(greedy_moves(config, init(config, key))) == (-1, -1)
        trained = jax.tree.map(lambda leaf: leaf[i], states)  # noqa: B023
        assert worst_results(greedy_moves(config, trained)) == (0, 0)
