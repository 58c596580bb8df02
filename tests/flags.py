"""What flags ask for."""

from purejaxppo import cli
from purejaxppo.cli.flags import Seeds, to_config, to_settings


def parse(argv):
    """The configuration and the seeds."""
    command = cli.parse(argv)
    return to_config(command.flags), to_settings(Seeds, command.flags)
