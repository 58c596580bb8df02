"""What `check_env` says of environments with one fault each."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from flax import struct
from gymnax.environments import spaces

from purejaxppo import Environment, check_env
from purejaxppo.environments import MultiDiscrete, RandomGridWorld, RandomGridWorldParams


@struct.dataclass
class Params:
    max_steps_in_episode: int = 10


@struct.dataclass
class State:
    place: jax.Array
    time: jax.Array


@dataclasses.dataclass(frozen=True)
class Walk(Environment):
    """Nothing is wrong with this one: a walk to the left or to the right, away from the middle."""

    default_params = Params()

    def action_space(self, params):
        return spaces.Discrete(2)

    def observation_space(self, params):
        return spaces.Box(-3.0, 3.0, (1,))

    def observe_place(self, state):
        return jnp.asarray(state.place, jnp.float32)[None]

    def reset_env(self, key, params):
        state = State(jnp.zeros(()), jnp.int32(0))
        return self.observe_place(state), state

    def step_env(self, key, state, action, params):
        state = State(state.place + 2.0 * action - 1.0, state.time + 1)
        return self.observe_place(state), state, state.place, jnp.abs(state.place) >= 3, {}


class Unhashable(Walk):
    __hash__ = None


class OddActions(Walk):
    def action_space(self, params):
        return spaces.Dict({"go": spaces.Discrete(2)})


class EmptyBox(Walk):
    def action_space(self, params):
        return spaces.Box(1.0, 1.0, ())


class OddObservations(Walk):
    def observation_space(self, params):
        return MultiDiscrete((2, 2))


class WrongShape(Walk):
    def observation_space(self, params):
        return spaces.Box(-3.0, 3.0, (2,))


class WrongPart(Walk):
    def observation_space(self, params):
        return spaces.Dict({"place": spaces.Box(-3.0, 3.0, (2,))})

    def observe_place(self, state):
        return {"place": super().observe_place(state)}


class FourValues(Walk):
    def step(self, key, state, action, params):
        return super().step(key, state, action, params)[:4]


class FiveValues(Walk):
    def step(self, key, state, action, params):
        obs, state, reward, terminated, truncated, info = super().step(key, state, action, params)
        return obs, state, reward, terminated | truncated, info


class NoSuccessor(Walk):
    def step(self, key, state, action, params):
        return *super().step(key, state, action, params)[:5], {}


class LateSuccessor(Walk):
    def step(self, key, state, action, params):
        obs, *result, info = super().step(key, state, action, params)
        return obs, *result, info | {"final_observation": obs - 0.1}


class Growing(Walk):
    def step(self, key, state, action, params):
        obs, new, *result = super().step(key, state, action, params)
        return obs, new.replace(place=jnp.stack([new.place, new.place])), *result


class Changing(Walk):
    def step(self, key, state, action, params):
        obs, new, *result = super().step(key, state, action, params)
        return obs, (new.place, new.time), *result


class ManyRewards(Walk):
    def step(self, key, state, action, params):
        obs, new, reward, *result = super().step(key, state, action, params)
        return obs, new, jnp.stack([reward, reward]), *result


class InfiniteReward(Walk):
    def step_env(self, key, state, action, params):
        obs, new, reward, *result = super().step_env(key, state, action, params)
        return obs, new, reward / 0.0, *result


class NotANumber(Walk):
    def observe_place(self, state):
        return super().observe_place(state) / jnp.abs(state.place)


class OutOfBounds(Walk):
    def observation_space(self, params):
        return spaces.Box(-1.0, 1.0, (1,))


class Endless(Walk):
    def is_truncated(self, state, params):
        return jnp.bool_(False)

    def step_env(self, key, state, action, params):
        obs, new, reward, _, info = super().step_env(key, state, action, params)
        return jnp.clip(obs, -3.0, 3.0), new, reward, jnp.bool_(False), info

    def is_terminated(self, state, params):
        return jnp.bool_(False)


class NothingAllowed(Walk):
    def action_mask(self, obs, params):
        return obs.repeat(2) > 0


class Unlucky(Walk):
    def step_env(self, key, state, action, params):
        raise ZeroDivisionError("no luck\nat all")


class NoActions(Walk):
    def action_space(self, params):
        return spaces.Discrete(0)


class WholeBox(Walk):
    def action_space(self, params):
        return spaces.Box(0, 5, (), jnp.int32)


class CutState(Walk):
    def reset_env(self, key, params):
        obs, state = super().reset_env(key, params)
        return obs, state.replace(place=jnp.int32(0))


class CutObservation(Walk):
    def observation_space(self, params):
        return spaces.Discrete(4)

    def observe_place(self, state):
        return jnp.abs(jnp.float32(state.place)) / 2


class Image(Walk):
    def features(self, obs):
        return jnp.zeros((3, 3))


class Indices(Walk):
    def features(self, obs):
        return jnp.zeros(3, jnp.int32)


class Infinite(Walk):
    def observation_space(self, params):
        return spaces.Box(-jnp.inf, jnp.inf, (1,))

    def observe_place(self, state):
        return 1.0 / super().observe_place(state)


class FromOne(Walk):
    def observation_space(self, params):
        return spaces.Discrete(3)

    def observe_place(self, state):
        return jnp.int32(jnp.abs(state.place)) + 1


class WrongMask(Walk):
    def action_mask(self, obs, params):
        return jnp.ones(3, bool)


class MaskedBox(Walk):
    def action_space(self, params):
        return spaces.Box(-1.0, 1.0, ())

    def action_mask(self, obs, params):
        return jnp.ones(1, bool)


class NoChoices(Walk):
    def action_space(self, params):
        return MultiDiscrete((2, 0))


class TimeTerminates(Walk):
    """As an older gymnax had it: the end that step_env tells is that of the time limit too."""

    def step_env(self, key, state, action, params):
        obs, new, reward, terminated, info = super().step_env(key, state, action, params)
        return obs, new, reward, terminated | (new.time >= params.max_steps_in_episode), info


class OnlyTimeTerminates(TimeTerminates):
    def is_truncated(self, state, params):
        return jnp.array(False)


class Far(Walk):
    low, high = 5.0, 35.0

    def action_space(self, params):
        return spaces.Box(self.low, self.high, (2,))

    def step_env(self, key, state, action, params):
        return super().step_env(key, state, action[0] > (self.low + self.high) / 2, params)


class FarInOne(Far):
    low, high = jnp.array([-1.0, -9.0]), jnp.array([1.0, -1.5])

    def step_env(self, key, state, action, params):
        return Walk.step_env(self, key, state, action[0] > 0, params)


class Wide(Far):
    low, high = -2000.0, 2000.0


FAULTS = {
    NoActions: "there must be an action",
    WholeBox: "of int32: policies give floats in a Box",
    CutState: "step changes state.place from int32 to float32: it stays int32, its fractions are lost",
    CutObservation: "observation holds numbers that the dtypes of observation_space have not: they are changed",
    Image: "features has shape (3, 3), of float32: it must be a vector of floats, or one integer",
    Indices: "features has shape (3,), of int32: it must be a vector of floats, or one integer",
    Infinite: "observation holds infinity, or a number too large to square",
    FromOne: "observation leaves observation_space, which is Discrete(3, dtype=int32): it was seen from 1 to 4",
    WrongMask: "action_mask: must have shape (2,), for Discrete(2, dtype=int32), but has (3,)",
    MaskedBox: "action_mask: must be None for continuous actions; only choices can be masked",
    NoChoices: "num_categories=(2, 0): must be a sequence of one or more integers >= 1",
    TimeTerminates: "max_steps_in_episode terminates an episode",
    OnlyTimeTerminates: "max_steps_in_episode terminates an episode",
    Far: 'use MLP(distribution="tanh_gaussian"), or scale it to about -1 to 1',
    FarInOne: 'use MLP(distribution="tanh_gaussian"), or scale it to about -1 to 1',
    Wide: 'use MLP(distribution="tanh_gaussian"), or scale it to about -1 to 1',
    Unhashable: "it is not hashable, and so cannot be part of a compiled program: make it a frozen dataclass",
    OddActions: "it must be Discrete, MultiDiscrete or Box",
    EmptyBox: "low must be below high",
    OddObservations: "it must be Discrete, Box, Dict or Tuple",
    WrongShape: "reset's observation has shape (1,), but observation_space says (2,)",
    WrongPart: "step's observation has shape (1,), but observation_space says (2,)",
    FourValues: "step gives 4 values: it must give obs, state, reward, terminated, truncated, info",
    FiveValues: "step gives five values: a time limit cannot be told from a termination",
    NoSuccessor: "step's info lacks 'final_observation', the successor before any reset",
    LateSuccessor: "where an episode goes on, final_observation differs from the observation",
    Growing: "step changes the shape of state.place, from () to (2,)",
    Changing: "step changes the structure of the state",
    ManyRewards: "reward has shape (2,): it must be a single number",
    InfiniteReward: "a reward is not finite",
    NotANumber: "observation holds NaN",
    OutOfBounds: "observation leaves observation_space",
    Endless: "no episode ended in 200 random steps: evaluation cuts each short after 100,000",
    NothingAllowed: "action_mask allowed no action at all in some state",
    Unlucky: "it raises ZeroDivisionError: no luck",
}


@pytest.mark.parametrize("env", [Walk(), RandomGridWorld()])
def test_nothing_is_said_of_a_sound_environment(env):
    assert check_env(env) == []


@pytest.mark.parametrize("kind", FAULTS)
def test_every_fault_is_told(kind):
    faults = check_env(kind())
    assert any(FAULTS[kind] in fault for fault in faults), faults
    assert len(faults) <= 2  # no flood of what follows from it


def test_randomness_that_does_not_come_from_the_key_is_told():
    drawn = iter(range(10))

    class Dice(Walk):
        def step(self, key, state, action, params):
            obs, new, reward, *result = super().step(key, state, action, params)
            return obs, new, reward + next(drawn), *result

    assert "the same step with the same key gave something else" in check_env(Dice())


def test_the_parameters_are_those_that_are_given():
    params = RandomGridWorldParams(lots_of_money=0.0, max_steps_in_episode=4)
    assert check_env(RandomGridWorld(height=64, width=64), params, num_steps=5) == []


def test_a_changed_object_is_told():
    class Mutable(Environment):
        default_params = Params()
        action_space, observation_space = Walk.action_space, Walk.observation_space
        observe_place, reset_env = Walk.observe_place, Walk.reset_env

        def __init__(self):
            self.prize = 1.0

        def step_env(self, key, state, action, params):
            state = State(state.place + 2.0 * action - 1.0, state.time + 1)
            return self.observe_place(state), state, self.prize, jnp.abs(state.place) >= 3, {}

    env = Mutable()
    assert check_env(env) == []
    env.prize = 5.0
    (fault,) = check_env(env)
    assert "its prize must not be changed after its first use" in fault


@pytest.mark.parametrize("limit", [1, 3, 10, 1_000_000])
def test_a_natural_end_is_no_time_limit(limit):
    """Not where it comes with the limit, either: the same step ends the episode without it."""

    class Fixed(Walk):
        def step_env(self, key, state, action, params):
            obs, new, reward, _, info = super().step_env(key, state, action, params)
            return jnp.clip(obs, -3.0, 3.0), new, reward, new.time >= 3, info

    assert check_env(Fixed(), Params(limit)) == []


@pytest.mark.parametrize(("low", "high"), [(-100.0, 100.0), (1.0, 9.0), (-0.1, 0.1), (-jnp.inf, 1.0), (0.0, jnp.inf)])
def test_boxes_around_0_are_in_reach(low, high):
    class Near(Far):
        def action_space(self, params):
            return spaces.Box(low, high, (2,))

    assert check_env(Near()) == []


@pytest.mark.parametrize(
    ("env", "limit", "said"),
    [
        (Walk(), 40, []),
        (Walk(), 20_000, []),
        (Endless(), 40, ["in 41 "]),
        (Endless(), 1, ["in 5 "]),
        (Endless(), 1_000_000, ["in 10001 "]),
        (Endless(), float("inf"), ["in 10001 "]),
    ],
)
def test_it_walks_on_to_the_time_limit(env, limit, said):
    class Slow(type(env)):
        def step_env(self, key, state, action, params):
            obs, new, reward, _, info = super().step_env(key, state, action, params)
            return jnp.clip(obs, -3.0, 3.0), new, reward, jnp.bool_(False), info

    faults = check_env(Slow(), Params(limit), num_steps=5)
    assert len(faults) == len(said)
    assert all(f"no episode ended {text}random steps" in fault for text, fault in zip(said, faults, strict=True))


def test_a_box_without_bounds_is_walked_in():
    class Open(Walk):
        low, high = -jnp.inf, jnp.inf

        def action_space(self, params):
            return spaces.Box(self.low, self.high, (2,))

        def step_env(self, key, state, action, params):
            obs, new, _, terminated, info = super().step_env(key, state, action[0] > 0, params)
            return obs, new, jnp.max(jnp.abs(action)), terminated, info

    class Half(Open):
        low = jnp.array([1.0, -jnp.inf])

    assert check_env(Open()) == []
    assert check_env(Half()) == []
