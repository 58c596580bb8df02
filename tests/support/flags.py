"""Flags of a small training, and what flags ask for."""

from purejaxppo import cli
from purejaxppo.cli.flags import Seeds, to_config, to_settings

SMALL = ["--num-envs", "4", "--num-steps", "8", "--total-timesteps", "64", "--network.hidden-sizes", "4"]


def parse(argv):
    """The configuration and the seeds."""
    command = cli.parse(argv)
    return to_config(command.flags), to_settings(Seeds, command.flags)
