"""Pictures of training, read back from matplotlib's own objects."""

import io
import re
from functools import partial
from itertools import pairwise

import chex
import jax
import jax.numpy as jnp
import matplotlib.colors
import matplotlib.pyplot
import numpy as np
import pytest
from matplotlib.collections import PathCollection, QuadMesh
from matplotlib.figure import Figure
from matplotlib.quiver import Quiver
from PIL import Image

from purejaxppo import Config, ConfigError, GridWorld, init, update
from purejaxppo.experiment.pictures import agents, maps, report, training
from purejaxppo.losses import standardize
from purejaxppo.networks import MLP
from purejaxppo.planning import value_iteration
from purejaxppo.ppo import bind, collect, learn
from tests.support import probes, tables

KEY = jax.random.key(5)
MAP = "S.#M\n.D.m\n...."
FREE = "S......."  # the cells of MAP that one acts in, by their symbols, sorted
# Large steps and a narrow clip, so that samples end on both sides of it.
CONFIG = Config(
    num_envs=4, num_steps=32, total_timesteps=128 * 3, network=MLP(hidden_sizes=(4,)), lr=0.03, clip_eps=0.1
)
RETURNS = np.random.default_rng(0).normal(size=(5, 4)) * 3
MOVES = np.array([(-1, 0), (0, 1), (1, 0), (0, -1)])  # up, right, down, left as (row, column)


@pytest.fixture(autouse=True)
def _headless(monkeypatch):
    """No display, and no pyplot, which would look for one; gymnax imports it, so its absence cannot be asserted."""
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    for name in ("figure", "subplots", "switch_backend"):
        monkeypatch.setattr(matplotlib.pyplot, name, lambda *_, **__: pytest.fail("drawn with pyplot"))


@pytest.fixture(scope="module")
def painted():
    """A map with a given policy and given values: `(config, policy, value, solution, figure)`."""
    rng = np.random.default_rng(1)
    num_cells = len(GridWorld(MAP).map.symbol)
    logits, value = rng.normal(size=(num_cells, 4)) * 2, rng.normal(size=num_cells) * 3
    config, state = tables.agent(MAP, logits, value, gamma=0.9)
    weight = np.exp(logits) * config.env.map.is_open
    solution = value_iteration(config.env.tabular_model(config.env.default_params), 0.9)
    policy = weight / weight.sum(axis=1, keepdims=True)
    return config, policy, value, jax.tree.map(np.asarray, solution), maps.gridworld(config, state)


@pytest.fixture(scope="module")
def samples():
    state = init(CONFIG, KEY)
    return state, *ratios_and_advantages(CONFIG, state)


@jax.jit
def experience(config, state):
    key_rollout, key_learn = jax.random.split(KEY)
    _, _, batch = collect(config, state, key_rollout)
    return batch, learn(config, state, batch, key_learn)[0].params


def ratios_and_advantages(config, state):
    """Of one update's samples from `KEY`, by this test's own way from the same experience."""
    batch, params = experience(config, state)
    agents = state.agent, state.agent._replace(params=params)
    old, new = (np.asarray(bind(config).table(agent).distribution.log_probs, float) for agent in agents)
    at = np.asarray(batch.obs), np.asarray(batch.action)
    return np.exp(new[at] - old[at]), np.asarray(standardize(batch.advantage), float)


def maps_of(figure):
    """The three panels, without the colour bars."""
    return [axes for axes in figure.axes if axes.get_title()]


def on_map(env, numbers):
    """Numbers of cells as a masked array over the map, present where one acts."""
    grid = np.full(env.map.shape, np.nan)
    for (row, column), symbol, number in zip(env.map.position, env.map.symbol, numbers, strict=True):
        if symbol in ".S":
            grid[row, column] = number
    return grid


def image(axes):
    return np.ma.filled(np.ma.asarray(axes.images[0].get_array(), float), np.nan)


def arrows(axes):
    """`{(row, column, action): length}`, the arrow's middle cell found from where it starts."""
    found = {}
    for quiver in axes.collections:
        if isinstance(quiver, Quiver):
            assert (quiver.angles, quiver.scale_units, quiver.scale) == ("xy", "xy", 1)  # in cells, row 0 at the top
            for (x, y), u, v in zip(quiver.get_offsets(), quiver.U, quiver.V, strict=True):
                length = np.hypot(u, v)
                action = int(np.argmax(MOVES @ (v, u)))
                np.testing.assert_allclose(MOVES[action] * length, (v, u), atol=1e-6)
                found[round(y), round(x), action] = length
    return found


def numbers_in(axes):
    return [float(text.get_text()) for text in axes.texts if re.fullmatch(r"-?\d+\.\d\d", text.get_text())]


def band(collection):
    """`(x, low, high)` of what fill_between drew."""
    x, y = collection.get_paths()[0].vertices.T
    steps = np.unique(x)
    return steps, np.array([y[x == step].min() for step in steps]), np.array([y[x == step].max() for step in steps])


def surrogate(ratio, sign, eps, dual_clip=np.inf):
    """By cases, as in the paper's figure 1: what is gained by moving on ends at the clip, what is lost at the dual."""
    return np.where(sign > 0, np.minimum(ratio, 1 + eps), -np.clip(ratio, 1 - eps, dual_clip))


def scatters(axes):
    """`{"learn" | "clipped": [N, 2]}`, each with the count that its legend entry states checked."""
    entries = [text.get_text() for text in axes.get_legend().get_texts()]
    points = {}
    for collection in axes.collections:
        if isinstance(collection, PathCollection):
            label = collection.get_label()
            offsets = np.asarray(collection.get_offsets())
            assert label in entries
            assert int(label.split()[0].replace(",", "")) == len(offsets)
            points["clipped" if "clipped" in label else "learn"] = offsets
    return points


def test_learning_curves_draw_the_quantiles_over_seeds():
    axes = training.learning_curves(RETURNS, 32).axes[0]
    steps = [32, 64, 96, 128]
    np.testing.assert_array_equal(axes.lines[0].get_xdata(), steps)
    np.testing.assert_allclose(axes.lines[0].get_ydata(), np.median(RETURNS, axis=0))
    for collection, ends in zip(axes.collections, ((0, 1), (0.25, 0.75)), strict=True):
        x, low, high = band(collection)
        np.testing.assert_allclose(x, steps)
        np.testing.assert_allclose([low, high], np.quantile(RETURNS, ends, axis=0))


def test_learning_curves_leave_out_what_is_missing():
    returns = RETURNS.copy()
    returns[1:, 0] = np.nan  # one seed is left
    returns[:, 2] = np.nan  # none is
    axes = training.learning_curves(jnp.asarray(returns), 10).axes[0]
    np.testing.assert_array_equal(axes.lines[0].get_xdata(), [10, 20, 40])
    median = [RETURNS[0, 0], np.median(RETURNS[:, 1]), np.median(RETURNS[:, 3])]
    np.testing.assert_allclose(axes.lines[0].get_ydata(), median, rtol=1e-6)
    for collection in axes.collections:
        assert np.isfinite(collection.get_paths()[0].vertices).all()


@pytest.mark.parametrize("returns", [RETURNS[0], RETURNS[:1]])
def test_one_seed_is_a_line_alone(returns):
    axes = training.learning_curves(returns, 32).axes[0]
    assert len(axes.lines) == 1
    assert len(axes.collections) == 0
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), RETURNS[0])
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["one seed"]


def test_noisy_curves_are_averaged_over_windows_of_updates():
    returns = np.random.default_rng(2).normal(size=(3, 1001))
    returns[0, 996:] = np.nan
    axes = training.learning_curves(returns, 10).axes[0]
    (median,) = axes.lines
    ends = np.arange(1001 - 6 * 166, 1002, 6)
    np.testing.assert_array_equal(median.get_xdata(), 10 * ends)
    means = [np.nanmean(returns[:, max(0, end - 6) : end], axis=1) for end in ends]
    np.testing.assert_allclose(median.get_ydata(), np.nanmedian(means, axis=1))
    assert axes.get_ylabel() == "return of an episode, mean of 6 updates"
    axes = training.learning_curves(returns, 10, window=1001).axes[0]
    np.testing.assert_allclose(axes.lines[0].get_xydata(), [[10010, np.median(np.nanmean(returns, axis=1))]])
    for window in (0, 1002, 2.5):
        with pytest.raises(ConfigError, match=rf"window={window}: must be an integer from 1 to .* updates, 1001"):
            training.learning_curves(returns, 10, window=window)


def test_a_learning_curve_of_few_updates_is_drawn_as_it_is():
    returns = np.random.default_rng(2).normal(size=(3, 200))
    axes = training.learning_curves(returns, 10).axes[0]
    np.testing.assert_allclose(axes.lines[0].get_ydata(), np.median(returns, axis=0))
    assert axes.get_ylabel() == "return of an episode"


def test_pictures_of_one_agent_refuse_many(samples):
    state = samples[0]
    many = jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), state)
    for draw in (maps.gridworld, partial(training.surrogate, key=KEY)):
        with pytest.raises(ConfigError, match=r"state: must be of one agent, not of \[3\]; jax.tree.map"):
            draw(CONFIG, many)


@pytest.mark.long
def test_the_agent_with_the_median_score_and_one_after_a_tenth_of_its_training():
    config = CONFIG.replace(total_timesteps=128 * 25)
    early = agents.early_agent(config, KEY)
    state = update(config, update(config, init(config, KEY))[0])[0]
    chex.assert_trees_all_close(early.params, state.params, rtol=1e-4, atol=1e-6)
    states = jax.vmap(partial(init, config))(jax.random.split(KEY, 5))
    chosen = agents.median_agent(states, [3.0, 9.0, 5.0, 1.0, 7.0])
    chex.assert_trees_all_equal(chosen.params, jax.tree.map(lambda leaf: leaf[2], states.params))


def test_learning_curves_say_what_they_show():
    axes = training.learning_curves(np.tile(RETURNS, (300, 1)), 32, optimum=2.5).axes[0]
    assert "environment steps" in axes.get_xlabel()
    assert "return" in axes.get_ylabel()
    entries = [text.get_text() for text in axes.get_legend().get_texts()]
    assert entries == ["all 1,500 seeds", "middle half of the seeds", "median over seeds", "optimum 2.5"]
    np.testing.assert_array_equal(axes.lines[1].get_ydata(), [2.5, 2.5])
    assert axes.get_ylim()[1] > 2.5


@pytest.mark.parametrize("shape", [(3,), (2, 3)])
def test_learning_curves_without_a_single_episode_can_still_be_drawn(shape):
    figure = training.learning_curves(np.full(shape, np.nan), 32, optimum=1.0)
    assert "environment steps" in figure.axes[0].get_xlabel()


def test_the_map_shows_the_critic_the_solution_and_their_difference(painted):
    config, _, value, solution, figure = painted
    panels = maps_of(figure)
    assert len(panels) == 3
    for axes, numbers in zip(panels, (value, solution.value, value - solution.value), strict=True):
        np.testing.assert_allclose(image(axes), on_map(config.env, numbers), rtol=1e-5, atol=1e-5)
    assert [np.isfinite(image(axes)).sum() for axes in panels] == [len(FREE)] * 3
    for word, axes in zip(("learned", "exact", "V - V^*"), panels, strict=True):
        assert word in axes.get_title()


def test_learned_and_exact_share_their_colours_and_no_difference_is_neutral(painted):
    learned, exact, difference = (axes.images[0] for axes in maps_of(painted[-1]))
    assert learned.get_clim() == exact.get_clim()
    assert learned.get_cmap().name == exact.get_cmap().name
    low, high = learned.get_clim()
    for axes in maps_of(painted[-1])[:2]:
        assert low <= np.nanmin(image(axes)) <= np.nanmax(image(axes)) <= high
    low, high = difference.get_clim()
    assert low == -high
    assert high >= np.nanmax(np.abs(image(maps_of(painted[-1])[2])))


def test_arrows_are_as_long_as_their_moves_are_probable(painted):
    config, policy, _, solution, figure = painted
    learned, exact, difference = maps_of(figure)
    optimal = solution.is_optimal / solution.is_optimal.sum(axis=1, keepdims=True)
    for axes, probabilities in ((learned, policy), (exact, optimal)):
        drawn = arrows(axes)
        expected = {}
        for (row, column), symbol, moves in zip(config.env.map.position, config.env.map.symbol, probabilities):  # noqa: B905
            expected |= {(row, column, action): p for action, p in enumerate(moves) if symbol in ".S"}
        unit = max(drawn.values()) / max(expected.values())
        assert unit <= 0.5  # within the cell
        for place, p in expected.items():
            if p > 0.05 or place in drawn:
                np.testing.assert_allclose(drawn.pop(place), unit * p, rtol=1e-4)
            if p == 0:
                assert place not in drawn
        assert drawn == {}  # none elsewhere
    assert arrows(difference) == {}


def test_ties_share_an_arrow_and_v_star_is_known_by_hand():
    config, state = tables.agent("S.M\n...", [0.0] * 4, gamma=0.5)
    _, exact, _ = maps_of(maps.gridworld(config, state))
    np.testing.assert_allclose(image(exact), [[1, 4, np.nan], [-0.5, 1, 4]])
    drawn = arrows(exact)
    # From below the start, right and up lead to money equally fast.
    np.testing.assert_allclose(drawn[1, 0, 0], drawn[0, 0, 1] / 2, rtol=1e-5)
    np.testing.assert_allclose(drawn[1, 0, 1], drawn[0, 0, 1] / 2, rtol=1e-5)


def test_wrong_greedy_moves_are_crossed_and_counted(painted):
    config, policy, _, solution, figure = painted
    best = policy.argmax(axis=1)
    wrong = [
        (row, column)
        for cell, (row, column) in enumerate(config.env.map.position)
        if config.env.map.symbol[cell] in ".S" and not solution.is_optimal[cell, best[cell]]
    ]
    assert 0 < len(wrong) < len(FREE)
    difference = maps_of(figure)[2]
    assert re.search(r"\((\d+)\)", difference.get_title())[1] == str(len(wrong))
    (crosses,) = (c for c in difference.collections if isinstance(c, PathCollection))
    assert sorted((row, column) for column, row in crosses.get_offsets()) == sorted(wrong)


def test_an_agent_that_follows_the_solution_has_no_crosses_and_no_difference(painted):
    _, _, _, solution, _ = painted
    config, state = tables.agent(MAP, solution.is_optimal * 9.0, solution.value, gamma=0.9)
    difference = maps_of(maps.gridworld(config, state))[2]
    assert "(0)" in difference.get_title()
    np.testing.assert_allclose(image(difference)[~np.isnan(image(difference))], 0, atol=1e-5)
    assert difference.images[0].get_clim()[1] > 0
    assert set(numbers_in(difference)) == {0.0}
    assert not any(text.get_text() == "-0.00" for text in difference.texts)


def test_numbers_stand_in_the_cells_of_small_maps_only(painted):
    config, _, value, solution, figure = painted
    is_free = np.isin(config.env.map.symbol, [".", "S"])
    for axes, numbers in zip(maps_of(figure), (value, solution.value, value - solution.value), strict=True):
        np.testing.assert_allclose(numbers_in(axes), numbers[is_free], atol=0.00501)
        where = [(round(t.get_position()[1] - 0.4), t.get_position()[0]) for t in axes.texts if "." in t.get_text()]
        np.testing.assert_array_equal(where, config.env.map.position[is_free])
    for length in (maps.NUMBERED - 1, maps.NUMBERED, maps.NUMBERED + 1):
        config, state = tables.agent("S" + "." * (length - 2) + "M", [0.0] * 4)
        count = [len(numbers_in(axes)) for axes in maps_of(maps.gridworld(config, state))]
        assert count == [length - 1 if length <= maps.NUMBERED else 0] * 3


def test_only_a_gridworld_is_drawn_as_a_map():
    config = Config(env="CartPole-v1", num_envs=2, num_steps=4, total_timesteps=8)
    with pytest.raises(ConfigError, match=r"env='CartPole-v1': must be a GridWorld"):
        maps.gridworld(config, None)


def test_draw_map_has_a_square_for_every_cell_and_its_letters():
    env = GridWorld("S.#M\n.Dm#\nS..D")
    axes = Figure().subplots()
    maps.draw_walls(env, axes)
    middles = [(p.get_y() + p.get_height() / 2, p.get_x() + p.get_width() / 2) for p in axes.patches]
    np.testing.assert_allclose(middles, env.map.position)
    color = dict(zip(map(tuple, env.map.position), (p.get_facecolor() for p in axes.patches), strict=True))
    assert color[0, 0] == color[0, 1] == matplotlib.colors.to_rgba("white")
    assert len({color[0, 1], color[0, 3], color[1, 1], color[1, 2], axes.get_facecolor()}) == 5  # told apart
    assert color[1, 1] == color[2, 3]
    letters = {(round(t.get_position()[1] + 0.05), round(t.get_position()[0] + 0.05)): t.get_text() for t in axes.texts}
    assert letters == {(0, 0): "S", (0, 3): "M", (1, 1): "D", (1, 2): "m", (2, 0): "S", (2, 3): "D"}
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # row 0 at the top


def test_the_surrogate_shows_every_sample_of_an_update_on_the_clipped_curve(samples):
    check_surrogate(CONFIG, *samples, eps=CONFIG.clip_eps)


def test_the_surrogate_is_clipped_as_in_that_update_and_doubly_if_so_configured():
    config = CONFIG.replace(clip_eps=0.3, clip_eps_schedule="linear", clip_eps_end=0.0, dual_clip=1.04)
    state = init(config, KEY)._replace(num_updates=jnp.int32(2))
    ratio, advantage = ratios_and_advantages(config, state)
    assert np.any(ratio[advantage < 0] > 1.04)
    check_surrogate(config, state, ratio, advantage, eps=0.1, dual_clip=1.04)  # two thirds of the way from 0.3 to 0


def check_surrogate(config, state, ratio, advantage, *, eps, dual_clip=None):
    """Every sample is on the curve, as one that learns or one that is clipped; the curve and its edges are right."""
    for axes, sign in zip(training.surrogate(config, state, KEY).axes, (1, -1), strict=True):
        points = scatters(axes)
        expected = ratio[np.sign(advantage) == sign]
        has_dual = dual_clip is not None and sign < 0
        low, high = (-np.inf, 1 + eps) if sign > 0 else (1 - eps, dual_clip if has_dual else np.inf)
        is_flat = (expected < low) | (expected > high)
        assert 0 < is_flat.sum() < len(is_flat)
        for name, chosen in (("clipped", expected[is_flat]), ("learn", expected[~is_flat])):
            x, y = points[name].T
            np.testing.assert_allclose(np.sort(x), np.sort(chosen), rtol=1e-4)
            np.testing.assert_allclose(y, surrogate(x, sign, eps, dual_clip or np.inf), rtol=1e-6)
        (curve, *edges) = axes.lines
        x, y = curve.get_data()
        np.testing.assert_allclose(y, surrogate(x, sign, eps, dual_clip or np.inf), rtol=1e-6)
        assert np.all(np.diff(x) > 0)
        assert x[0] <= expected.min()
        assert x[-1] >= expected.max()
        places = [1 - eps, 1 + eps] + ([dual_clip] if has_dual else [])
        np.testing.assert_allclose([edge.get_xdata() for edge in edges], [[place] * 2 for place in places], rtol=1e-6)
        assert x[-1] >= max(places)
        assert ("> 0" if sign > 0 else "< 0") in axes.get_title()
        assert "pi_{old}" in axes.get_xlabel()


def test_the_surrogate_counts_every_sample_once(samples):
    state, _, advantage = samples
    panels = training.surrogate(CONFIG, state, KEY).axes
    assert sum(len(points) for axes in panels for points in scatters(axes).values()) == np.sum(advantage != 0)
    # Not standardised, the advantages of a critic that expects the worst are all positive.
    config, state = tables.agent(MAP, [0.0] * 4, value=-1000.0, normalize_advantage=False)
    positive, negative = (scatters(axes) for axes in training.surrogate(config, state, KEY).axes)
    assert sum(map(len, positive.values())) == config.batch_size
    assert sum(map(len, negative.values())) == 0


def test_samples_without_an_advantage_are_on_neither_panel():
    config = Config(env=probes.Probe(), num_envs=2, num_steps=4, total_timesteps=8, network=MLP(hidden_sizes=()))
    figure = training.surrogate(config, init(config, KEY), KEY)
    assert [len(points) for axes in figure.axes for points in scatters(axes).values()] == [0] * 4


def test_each_update_has_a_column_of_shares_that_sum_to_1():
    axes = training.ratio_histograms(CONFIG, KEY).axes[0]
    (mesh,) = (c for c in axes.collections if isinstance(c, QuadMesh))
    shares = np.ma.filled(np.ma.asarray(mesh.get_array(), float), np.nan)
    edges = mesh.get_coordinates()
    assert shares.shape == (edges.shape[0] - 1, CONFIG.num_updates)
    assert not np.any(shares == 0)  # left blank
    np.testing.assert_allclose(np.nansum(shares, axis=0), 1, rtol=1e-5)
    np.testing.assert_array_equal(edges[0, :, 0], [0, 128, 256, 384])
    assert (edges[0, 0, 1], edges[-1, 0, 1]) == (0, 2)
    np.testing.assert_allclose(np.diff(edges[:, 0, 1]), 2 / len(shares), rtol=1e-6)
    for line, edge in zip(axes.lines, (0.9, 1.1), strict=True):
        np.testing.assert_allclose(line.get_ydata(), edge, rtol=1e-6)
        assert line.get_drawstyle() == "steps-post"


def test_the_ratios_edges_follow_the_schedule_and_windows_average_their_shares():
    config = CONFIG.replace(clip_eps=0.3, clip_eps_schedule="linear", clip_eps_end=0.0)
    each, all_three = (training.ratio_histograms(config, KEY, window=window).axes for window in (1, 3))
    for axes in (each[0], all_three[0]):
        for line, sign in zip(axes.lines, (-1, 1), strict=True):
            np.testing.assert_array_equal(line.get_xdata(), [0, 128, 256, 384])
            np.testing.assert_allclose(line.get_ydata()[:-1], 1 + sign * np.array([0.3, 0.2, 0.1]), rtol=1e-6)
    shares = [np.ma.filled(axes[0].collections[0].get_array(), 0) for axes in (each, all_three)]
    assert [found.shape[1] for found in shares] == [3, 1]
    np.testing.assert_allclose(np.nansum(shares[0], axis=1) / 3, np.nan_to_num(shares[1][:, 0]), atol=1e-6)
    assert [axes[1].get_ylabel() for axes in (each, all_three)] == [
        "share of the samples",
        "share of the samples, mean of 3 updates",
    ]
    assert "environment steps" in axes.get_xlabel()
    assert "clip_eps" in axes.get_legend().get_texts()[0].get_text()


@pytest.mark.long
def test_the_columns_are_the_ratios_of_one_training_run():
    mesh = training.ratio_histograms(CONFIG, KEY).axes[0].collections[0]
    shares = np.nan_to_num(np.ma.filled(mesh.get_array(), np.nan))
    edges = mesh.get_coordinates()[:, 0, 1]
    key_train, key_ratios = jax.random.split(KEY)
    state = init(CONFIG, key_train)
    for column, key in zip(shares.T, jax.random.split(key_ratios, 3), strict=True):
        panels = training.surrogate(CONFIG, state, key).axes
        ratio = np.concatenate([points[:, 0] for axes in panels for points in scatters(axes).values()])
        counts, _ = np.histogram(ratio, edges)
        # A ratio that rounding moves over an edge changes two bins.
        assert np.abs(column - counts / 128).sum() < 0.05
        state, _ = update(CONFIG, state)


def test_ratios_beyond_the_picture_are_counted_at_its_edge():
    config = CONFIG.replace(lr=1.0, clip_eps=5.0)
    mesh = training.ratio_histograms(config, KEY).axes[0].collections[0]
    shares = np.nan_to_num(np.ma.filled(mesh.get_array(), np.nan))
    np.testing.assert_allclose(shares.sum(axis=0), 1, rtol=1e-5)
    assert shares[-1, 0] > 0


def test_ratios_stay_at_1_without_learning():
    mesh = training.ratio_histograms(CONFIG.replace(lr=1e-12), KEY).axes[0].collections[0]
    shares = np.nan_to_num(np.ma.filled(mesh.get_array(), np.nan))
    edges = mesh.get_coordinates()[:, 0, 1]
    np.testing.assert_allclose(shares[(edges[1:] >= 0.999) & (edges[:-1] <= 1.001)].sum(axis=0), 1, rtol=1e-6)


@pytest.mark.parametrize("name", ["learning", "gridworld", "surrogate", "ratios"])
def test_figures_are_written_as_png(name, painted, samples, tmp_path):
    figure = {
        "learning": lambda: training.learning_curves(RETURNS, 32, optimum=1.0),
        "gridworld": lambda: painted[-1],
        "surrogate": lambda: training.surrogate(CONFIG, samples[0], KEY),
        "ratios": lambda: training.ratio_histograms(CONFIG, KEY),
    }[name]()
    figure.savefig(tmp_path / "picture.png")
    with Image.open(tmp_path / "picture.png") as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 100
        assert len(picture.convert("RGB").getcolors(maxcolors=10**6)) > 20


NAMES = [
    "lr=0.1",
    "lr=0.2",
    "a long name, of many fields=(64, 64), that does not fit onto a single line of the picture=True",
]


def test_intervals_are_drawn_where_they_are():
    values = [(1.0, 0.5, 2.0), (3.0, 2.5, 3.5), (0.0, np.nan, np.nan)]
    (axes,) = report.intervals(NAMES, values, confidence=0.9).axes
    drawn = [line.get_xydata().tolist() for line in axes.lines]
    assert drawn[::2][:2] == [[[0.5, 0], [2, 0]], [[2.5, 1], [3.5, 1]]]
    assert drawn[1::2] == [[[1, 0]], [[3, 1]], [[0, 2]]]
    assert [label.get_text().replace("\n", " ") for label in axes.get_yticklabels()] == NAMES
    assert axes.yaxis_inverted()
    assert axes.get_xlabel() == "score: IQM over seeds, 90% interval"
    (axes,) = report.intervals(NAMES, [(1.0, np.nan, np.nan)] * 3, confidence=0.9).axes
    assert axes.get_xlabel() == "score: mean of one or two seeds, no interval"


def test_every_seeds_score_is_drawn():
    scores = [np.array([1.0, 1, 2]), np.array([5.0]), np.arange(4.0)]
    (axes,) = report.seeds(NAMES, scores, [1.0, 5.0, 1.5]).axes
    dots = [dots.get_offsets() for dots in axes.collections]
    for line, (own, found) in enumerate(zip(scores, dots, strict=True)):
        np.testing.assert_array_equal(found[:, 0], own)
        assert len(set(found[:, 1].tolist())) == len(own)  # none hides another
        assert np.abs(found[:, 1] - line).max() < 0.5
    assert [line.get_xdata()[0] for line in axes.lines] == [1, 5, 1.5]


@pytest.mark.parametrize("count", [1, 2, 3, 30])
def test_each_configuration_has_a_panel_of_its_curve_and_all_others(count):
    steps = np.arange(1, 6) * 10
    values = [(steps, steps * 0.1 + i, steps * 0.1 + i - 1, steps * 0.1 + i + 1) for i in range(count)]
    figure = report.curves([f"lr={i}" for i in range(count)], values, confidence=0.95, threshold=2.5)
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title() for axes in panels] == [f"lr={i}" for i in range(count)]
    for axes, (_, estimate, low, high) in zip(panels, values, strict=True):
        *others, own, threshold = axes.lines
        assert len(others) == count
        np.testing.assert_array_equal(own.get_xydata(), np.stack([steps, estimate], axis=1))
        assert threshold.get_ydata() == [2.5, 2.5]
        found = band(axes.collections[0])
        for one, other in zip(found, (steps, low, high), strict=True):
            np.testing.assert_allclose(one, other)
        assert axes.get_ylim() == panels[0].get_ylim()
    assert figure.get_supylabel() == "return of an episode\nIQM over seeds, 95% interval"


def test_curves_of_one_seed_have_no_band_and_say_so():
    nan = np.full(3, np.nan)
    figure = report.curves(["a"], [(np.arange(3), np.arange(3), nan, nan)], confidence=0.95)
    assert figure.get_supylabel() == "return of an episode\nmean of one or two seeds, no interval"
    report.curves(["a"], [(nan[:0],) * 4], confidence=0.95).savefig(io.BytesIO())


def test_names_do_not_run_into_each_other():
    figure = report.intervals([f"{NAMES[2]}, " * 3] * 4, [(1.0, 0.5, 2.0)] * 4, confidence=0.9)
    figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in figure.axes[0].get_yticklabels()]
    assert all(not one.overlaps(other) for one, other in pairwise(boxes))
