"""The flags that commands share: a configuration, and how many agents are trained from which seed."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Annotated, Any

import jax
import tyro
from jax import Array

from purejaxppo import environments, presets
from purejaxppo.config import Config
from purejaxppo.errors import ConfigError
from purejaxppo.presets import preset
from purejaxppo.settings import COUNT, Constraint, Settings, static

DEFAULT_PRESET = "treasure"
SEED = Constraint("an integer in [0, 2**32)", lambda x: 0 <= x < 2**32, number=int)

Flag = tuple[str, Any, Any]


class Seeds(Settings):
    """How many agents are trained, and from which seed."""

    num_seeds: int = static(1, "agents trained at once, each from its own seed", COUNT)
    seed: int = static(0, "seed from which the agents' seeds are derived", SEED)

    @property
    def keys(self) -> Array:
        """The agents' keys, `[num_seeds]`."""
        return jax.random.split(jax.random.split(jax.random.key(self.seed))[0], self.num_seeds)


def flags_type(help: str, flags: Sequence[Flag]) -> type:
    """A dataclass with these flags, as tyro reads it."""
    kind = dataclasses.make_dataclass("Flags", flags)
    kind.__doc__ = help
    return kind


def flag(name: str, kind: Any, default: Any, text: str) -> Flag:
    """A flag with its default."""
    return name, Annotated[kind, tyro.conf.arg(help=text)], dataclasses.field(default=default)


def settings_flags(settings: type[Settings], **defaults: Any) -> list[Flag]:
    """A flag for each field."""
    flags = []
    for field in dataclasses.fields(settings):  # type: ignore[arg-type]
        default = defaults.get(field.name, field.default)
        default = tuple(default) if isinstance(default, list) else default
        text = field.metadata["help"] + (", as name=value pairs" if field.name == "env_params" else "")
        flags.append(flag(field.name, _kind(field, default), default, text))
    return flags


def _kind(field: dataclasses.Field[Any], default: Any) -> Any:
    """The type of a field as tyro reads it."""
    allowed = field.metadata["allowed"]
    kind: Any = type(field.default)
    if field.name == "env_params":
        kind = tuple[str, ...]
    elif allowed is not None and allowed.number is not None:
        kind = allowed.number
    elif kind is tuple:
        kind = tuple[int, ...]
    return kind | None if default is None else kind


def config_flags(argv: list[str], num_seeds: int | None = None) -> list[Flag]:
    """A flag for every field of `Config` and `Seeds`, and for the preset that the others' defaults come from."""
    name = _preset_name(argv)
    if name is not None:
        preset(name)  # so that what cannot be a default is told as a mistake in the preset
    defaults = {} if name is None else presets.read(name)
    defaults |= {"env_params": ()}
    if num_seeds is None:
        num_seeds = 1024 if name == DEFAULT_PRESET else Seeds.num_seeds
    if not isinstance(defaults.get("env", ""), str):
        defaults["env"] = None  # an environment that is an object has no flag
    return [
        flag("preset", str | None, name, f"settings to start from: {', '.join(presets.names())}, or a file (*.toml)"),
        *settings_flags(Config, **defaults),
        *settings_flags(Seeds, num_seeds=num_seeds),
    ]


def to_settings(settings: type[Any], flags: Any) -> Any:
    """The settings that the flags ask for.

    Raises:
        ConfigError: a value cannot be used.
    """
    return settings(**{field.name: vars(flags)[field.name] for field in dataclasses.fields(settings)})


def to_config(flags: Any) -> Config:
    """The configuration that the flags ask for.

    Raises:
        ConfigError: a value cannot be used.
    """
    base = Config() if flags.preset is None else preset(flags.preset)
    values = {field.name: vars(flags)[field.name] for field in dataclasses.fields(Config)}
    env = base.env if values["env"] is None else environments.resolve(values["env"])
    params = _env_params(env, base.env_params if env == base.env else None, values["env_params"])
    return Config(**values | {"env": env, "env_params": params})


def _preset_name(argv: list[str]) -> str | None:
    """The preset that is asked for, or the default one where no environment is either."""
    return _early_flag(argv, "--preset") or (None if _early_flag(argv, "--env") else DEFAULT_PRESET)


def _early_flag(argv: list[str], flag: str) -> str | None:
    """The value of a flag that the other flags' defaults depend on, the last one, as tyro has it."""
    found = None
    for argument, following in itertools.pairwise([*argv, ""]):
        if argument == flag:
            found = following
        elif argument.startswith(f"{flag}="):
            found = argument.removeprefix(f"{flag}=")
    return found


def _env_params(env: Any, params: Any, pairs: Sequence[str]) -> Any:
    """`params`, or where there are none the environment's defaults, with some replaced."""
    if not pairs:
        return params
    params = environments.make(env).default_params if params is None else params
    changes: dict[str, Any] = {}
    for pair in pairs:
        name, _, text = pair.partition("=")
        try:
            changes[name] = float(text)
        except ValueError:
            raise ConfigError(f"env_params={pair!r}: must be name=number") from None
    return environments.replaced_params(params, changes)
