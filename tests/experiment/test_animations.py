"""Moving pictures, as files and frame by frame."""

import importlib.util
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from purejaxppo import Config, ConfigError, GridWorld, GridWorldParams, init
from purejaxppo.environments import RandomGridWorld, make
from purejaxppo.experiment.pictures import animations
from purejaxppo.networks import MLP
from tests.support.tables import LEFT, RIGHT, agent

KEY = jax.random.key(8)
DURATION = 1000 // animations.FRAMES_PER_SECOND
BOUNCES = [RIGHT, LEFT, LEFT]  # on "S.M", never at the money
ANY = [0.0] * 4


def num_frames(path):
    """Pillow writes equal frames as one that is shown for longer, so frames are counted by their time."""
    with Image.open(path) as picture:
        assert picture.format == "GIF"
        durations = []
        for frame in range(picture.n_frames):
            picture.seek(frame)
            durations.append(picture.info["duration"])
    assert all(duration % DURATION == 0 for duration in durations)
    return sum(durations) // DURATION


def stack(*states):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)


@pytest.fixture
def frames(monkeypatch):
    """What is drawn instead of the drawing itself: for each frame the dots' `[N, 2]` (row, column), and the title."""
    seen = []

    class Recorder:
        def __init__(self, figure, draw, frames):
            for frame in range(frames):
                (dots,) = draw(frame)
                seen.append((np.array(dots.get_offsets())[:, ::-1], figure.axes[0].get_title()))

        def save(self, path, writer):
            pass

    monkeypatch.setattr(animations, "FuncAnimation", Recorder)
    return seen


def places(frames):
    """The columns, `[frames, N]`, of agents in the only row of a map."""
    dots = np.stack([dots for dots, _ in frames])
    assert np.all(np.round(dots[..., 0]) == 0)
    return np.round(dots[..., 1])


@pytest.mark.parametrize("draw", [animations.animate_episode, animations.animate_agents])
def test_a_gif_has_a_frame_for_every_step_then_pauses(draw, tmp_path):
    config, state = agent("S...M", RIGHT)
    draw(config, state, KEY, tmp_path / "a.gif")
    assert num_frames(tmp_path / "a.gif") == 4 + 1 + animations.PAUSE
    with Image.open(tmp_path / "a.gif") as picture:
        first = np.asarray(picture.convert("RGB"))
        picture.seek(picture.n_frames - 1)
        assert np.any(first != np.asarray(picture.convert("RGB")))


def test_an_episode_follows_one_agent_through_the_middle_of_its_cells(frames, tmp_path):
    config, state = agent("S...M", RIGHT)
    animations.animate_episode(config, state, KEY, tmp_path / "a.gif")
    columns = [0, 1, 2, 3, 4] + [4] * animations.PAUSE
    np.testing.assert_array_equal([dots[0] for dots, _ in frames], [(0, column) for column in columns])
    titles = [f"step {i}: under way" for i in range(4)] + ["step 4: lots of money"] * (1 + animations.PAUSE)
    assert [title for _, title in frames] == titles


@pytest.mark.parametrize(("layout", "place"), [("Sm", "money"), ("MSD", "dragon")])
def test_an_episode_says_where_it_ended(layout, place, frames, tmp_path):
    config, state = agent(layout, RIGHT)
    animations.animate_episode(config, state, KEY, tmp_path / "a.gif")
    assert frames[-1][1] == f"step 1: {place}"


def test_rows_go_down(frames, tmp_path):
    config, state = agent("S#\n.#\nMS", ANY, env_params=GridWorldParams(max_steps_in_episode=1))
    animations.animate_agents(config, state, KEY, tmp_path / "a.gif", num_agents=50)
    first, second = (set(map(tuple, np.round(frames[i][0]) + 0.0)) for i in (0, 1))
    assert first == {(0, 0), (2, 1)}
    assert second == {(1, 0), (2, 0)}


def test_a_time_limit_ends_the_episode_where_it_cuts_it_short(frames, tmp_path):
    config, state = agent("S.M", BOUNCES, env_params=GridWorldParams(max_steps_in_episode=5))
    animations.animate_episode(config, state, KEY, tmp_path / "a.gif")
    assert places(frames)[:, 0].tolist() == [0, 1, 0, 1, 0, 1] + [1] * animations.PAUSE
    assert frames[-1][1] == "step 5: under way"


def test_no_animation_is_longer_than_the_longest(frames, monkeypatch, tmp_path):
    monkeypatch.setattr(animations, "MOST_FRAMES", 4)
    config, state = agent("S.M", BOUNCES)
    animations.animate_episode(config, state, KEY, tmp_path / "a.gif")
    assert places(frames)[:, 0].tolist() == [0, 1, 0, 1, 0] + [0] * animations.PAUSE
    assert frames[-1][1] == "step 4: under way"


def test_agents_stay_where_their_first_episode_ended(frames, tmp_path):
    config, state = agent("S...SM", RIGHT)
    animations.animate_agents(config, state, KEY, tmp_path / "a.gif", num_agents=1000)
    columns = places(frames)
    assert set(columns[0]) == {0, 4}
    step = np.minimum(np.arange(len(frames)), 5)
    np.testing.assert_array_equal(columns, np.minimum(columns[:1] + step[:, None], 5))
    assert len(frames) == 5 + 1 + animations.PAUSE
    for (_, title), now, number in zip(frames, columns, step, strict=True):
        assert title == f"step {number}: 1,000 agents, {np.sum(now == 5):,} at money, 0 at dragons"


def test_agents_that_never_end_do_not_hold_up_the_others(frames, monkeypatch, tmp_path):
    monkeypatch.setattr(animations, "MOST_FRAMES", 6)
    (config, right), (_, bounces) = (agent("S.M", logits) for logits in (RIGHT, BOUNCES))
    animations.animate_agents(config, stack(right, bounces), KEY, tmp_path / "a.gif", num_agents=2)
    assert places(frames).T.tolist() == [[0, 1, 2, 2, 2, 2, 2] + [2] * animations.PAUSE, [0, 1] * 3 + [0] * 6]


def test_agents_in_a_cell_stand_apart_each_at_its_own_place(frames, tmp_path):
    config, state = agent("S...SM", RIGHT)
    animations.animate_agents(config, state, KEY, tmp_path / "a.gif", num_agents=30)
    dots = np.stack([dots for dots, _ in frames])
    within = dots - np.round(dots)
    np.testing.assert_allclose(within, np.broadcast_to(within[0], within.shape), atol=1e-6)
    assert len(np.unique(within[0], axis=0)) == 30
    assert np.all(np.abs(within) < 0.5)


@pytest.mark.parametrize("num_agents", [1, 5])
def test_many_states_take_turns(num_agents, frames, tmp_path):
    config, right = agent("D.S.M", RIGHT)
    _, left = agent("D.S.M", LEFT)
    animations.animate_agents(config, stack(right, left), KEY, tmp_path / "a.gif", num_agents=num_agents)
    assert places(frames)[-1].tolist() == [4, 0, 4, 0, 4][:num_agents]
    if num_agents > 1:
        assert frames[-1][1] == "step 2: 5 agents, 3 at money, 2 at dragons"


def test_a_thousand_agents_are_shown_by_default(frames, tmp_path):
    config, state = agent("SM", RIGHT)
    animations.animate_agents(config, state, KEY, tmp_path / "a.gif")
    assert [len(dots) for dots, _ in frames] == [1000] * (2 + animations.PAUSE)


def test_an_episode_samples_the_policy_by_its_key_alone(frames, tmp_path):
    config, state = agent("S...\n....\n...M", ANY, env_params=GridWorldParams(max_steps_in_episode=10))
    ways = []
    for key in (KEY, KEY, jax.random.key(9), jax.random.key(10)):
        frames.clear()
        animations.animate_episode(config, state, key, tmp_path / "a.gif")
        ways.append([tuple(dots[0]) for dots, _ in frames])
    assert ways[0] == ways[1]
    assert len({tuple(way) for way in ways}) == 3


def test_many_agents_sample_each_agent_for_itself(frames, tmp_path):
    config, state = agent("M.S.M", [0.0, np.log(3.0), 0.0, 0.0])
    animations.animate_agents(config, state, KEY, tmp_path / "a.gif", num_agents=2000)
    # Right with probability 3/4: four standard errors are 0.04.
    assert abs(np.mean(places(frames)[1] == 3) - 0.75) < 0.04


def test_the_same_key_gives_the_same_file(tmp_path):
    config, state = agent("S..M", ANY, env_params=GridWorldParams(max_steps_in_episode=3))
    for name in "ab":
        animations.animate_episode(config, state, KEY, str(tmp_path / name) + ".gif")
    assert (tmp_path / "a.gif").read_bytes() == (tmp_path / "b.gif").read_bytes()


def test_coordinates_as_features_are_drawn_too(frames, tmp_path):
    env = GridWorld("S..M", features_as="coordinates")
    config = Config(env=env, num_envs=2, num_steps=4, total_timesteps=8, env_params=GridWorldParams(slip=1.0))
    animations.animate_episode(config, init(config, KEY), KEY, tmp_path / "a.gif")
    # All moves of the first cell but right are blocked, and this wind always blows aside.
    assert np.all(places(frames) == 0)


@pytest.mark.parametrize("num_agents", [0, -1, 2.5, True, "3"])
def test_a_wrong_number_of_agents_is_refused(num_agents, tmp_path):
    config, state = agent("SM", RIGHT)
    with pytest.raises(ConfigError, match="num_agents="):
        animations.animate_agents(config, state, KEY, tmp_path / "a.gif", num_agents=num_agents)
    assert not (tmp_path / "a.gif").exists()


def test_an_episode_is_of_one_agent(tmp_path):
    config, state = agent("SM", RIGHT)
    with pytest.raises(ConfigError, match=r"state: must be of one agent, not of \[2\]"):
        animations.animate_episode(config, stack(state, state), KEY, tmp_path / "a.gif")


def test_a_key_of_another_kind_is_refused(tmp_path):
    config, state = agent("SM", RIGHT)
    for key in (np.zeros(2, np.uint32), jax.random.split(KEY)):
        with pytest.raises(ConfigError, match="key"):
            animations.animate_episode(config, state, key, tmp_path / "a.gif")


def small(env, **settings):
    return Config(env=env, num_envs=2, num_steps=4, total_timesteps=8, network=MLP(hidden_sizes=()), **settings)


def test_many_agents_are_animated_on_gridworlds_only(tmp_path):
    with pytest.raises(ConfigError, match=r"env='CartPole-v1': must be a GridWorld"):
        animations.animate_agents(small("CartPole-v1"), None, KEY, tmp_path / "a.gif")


@pytest.mark.parametrize("env", ["UmbrellaChain-bsuite", "DeepSea-bsuite", "RandomGridWorld"])
def test_what_cannot_be_drawn_is_refused_with_what_can(env, tmp_path):
    assert not animations.can_draw(make(env))
    with pytest.raises(ConfigError, match=f"env='{env}': must be a GridWorld") as error:
        animations.animate_episode(small(env), None, KEY, tmp_path / "a.gif")
    for name in ("CartPole-v1", "Catch-bsuite", "Breakout-MinAtar"):
        assert name in str(error.value)


def test_what_can_be_drawn_without_pygame(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert animations.can_draw(GridWorld("SM"))
    for env in ("GridWorld-maze", "Catch-bsuite", "FourRooms-misc", "Breakout-MinAtar"):
        assert animations.can_draw(make(env))
    assert not animations.can_draw(RandomGridWorld())
    for env in ("CartPole-v1", "Acrobot-v1", "MountainCar-v0"):
        assert not animations.can_draw(make(env))
        with pytest.raises(ConfigError, match=re.escape("purejaxppo[render]")):
            animations.animate_episode(small(env), None, KEY, tmp_path / "a.gif")


@pytest.mark.few(1)
@pytest.mark.parametrize("env", ["Catch-bsuite", "FourRooms-misc", "Breakout-MinAtar", "CartPole-v1"])
def test_gymnax_draws_its_own(env, monkeypatch, tmp_path):
    if env in animations.NEEDS_PYGAME:
        pytest.importorskip("pygame")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.setattr(animations, "MOST_FRAMES", 4)  # all of them last longer
    config = small(env)
    animations.animate_episode(config, init(config, KEY), KEY, tmp_path / "a.gif")
    with Image.open(tmp_path / "a.gif") as picture:
        assert (picture.format, picture.n_frames) == ("GIF", 4)


@pytest.mark.long
def test_gymnax_draws_one_episode_only(tmp_path):
    config = small("Catch-bsuite")
    animations.animate_episode(config, init(config, KEY), KEY, tmp_path / "a.gif")
    with Image.open(tmp_path / "a.gif") as picture:
        assert picture.n_frames == 9  # the ball falls nine rows; the last board is not drawn
