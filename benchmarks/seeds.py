"""Environment steps per second of many agents at once, `jax.vmap(train)`, against their number."""

import dataclasses

import measure

TREASURE_SEEDS = (1, 4, 16, 64, 256, 1024)
CARTPOLE_SEEDS = (1, 4, 16, 64)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags(measure.TimingFlags):
    """The flags of this benchmark."""

    treasure_envs: int = 16
    """environments of each agent in GridWorld-treasure"""
    cartpole_envs: int = 4
    """environments of each agent in CartPole-v1"""
    updates: int = 20
    """updates of each agent, the same for every number of seeds; few of them overstate the initialisation"""


def main(flags: Flags) -> None:
    """Measure all cases."""
    report = measure.run(make_cases(flags), flags.repeats, flags.quick)
    measure.write_json(flags.json, report)


def make_cases(flags: Flags) -> list[measure.Case]:
    """One case for each environment and number of seeds, or a tiny one for a smoke run."""
    if flags.quick:
        return [measure.Case(measure.make_config("GridWorld-treasure", 2, **measure.QUICK), 2)]
    treasure = measure.make_config("GridWorld-treasure", flags.updates, num_envs=flags.treasure_envs)
    cartpole = measure.make_config("CartPole-v1", flags.updates, num_envs=flags.cartpole_envs)
    pairs = [(treasure, n) for n in TREASURE_SEEDS] + [(cartpole, n) for n in CARTPOLE_SEEDS]
    return [measure.Case(config, num_seeds) for config, num_seeds in pairs]


if __name__ == "__main__":
    main(measure.parse(Flags, __doc__))
