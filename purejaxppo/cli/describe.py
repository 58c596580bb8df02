"""`purejaxppo describe`."""

from typing import Any

from purejaxppo.cli import output
from purejaxppo.cli.flags import Seeds, config_flags, flags_type, to_config, to_settings
from purejaxppo.costs import describe

HELP = """Say what a training would cost, and train nothing: updates, gradient steps, memory, arithmetic.

Example: purejaxppo describe --env CartPole-v1 --num-envs 1024
"""


def flags(argv: list[str]) -> type:
    """The flags of `train` that decide the cost."""
    return flags_type(HELP, config_flags(argv))


def main(flags: Any) -> None:
    """Print it."""
    config, seeds = to_config(flags), to_settings(Seeds, flags)
    console = output.console()
    console.print(f"agents             {seeds.num_seeds:,}, each:")
    console.print(describe(config))
