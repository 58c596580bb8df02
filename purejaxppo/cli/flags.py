"""The flags that commands share: a configuration, and how many agents are trained from which seed."""

import contextlib
import dataclasses
import itertools
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import jax
import tyro
from jax import Array
from tyro.constructors import PrimitiveConstructorSpec

from purejaxppo import presets
from purejaxppo.config import Config
from purejaxppo.errors import ConfigError
from purejaxppo.import_paths import is_path
from purejaxppo.overrides import override
from purejaxppo.presets import preset
from purejaxppo.settings import SMALL_COUNT, Constraint, Settings, static
from purejaxppo.tables import NOT_FIELDS, TYPES, to_objects

DEFAULT_PRESET = "treasure"
SEED = Constraint("an integer in [0, 2**32)", lambda x: 0 <= x < 2**32, number=int)

NAMED = ("env", "network", "optimizer", "advantage", "lr_schedule", "clip_eps_schedule", "ent_coef_schedule")
WORDS = ("info",)  # fields that hold several words
PLAIN = (bool, int, float, str, tuple)
WITHIN = "__"  # in the name of a flag of a field within a field, where one sees a dot

Flag = tuple[str, Any, Any]


def _whole_number(texts: list[str]) -> Any:
    """A whole number, also as 1e6; any other number as it is, for the field to refuse in its own words."""
    with contextlib.suppress(ValueError):
        return int(texts[0])
    try:
        number = float(texts[0])
    except ValueError:
        raise ValueError(f"{texts[0]!r} is not a whole number") from None
    return int(number) if number.is_integer() else number


WHOLE_NUMBER: Any = Annotated[
    int,
    PrimitiveConstructorSpec(
        nargs=1,
        metavar="INT",
        instance_from_str=_whole_number,
        is_instance=lambda x: isinstance(x, int),
        str_from_instance=lambda x: [str(x)],
    ),
]
AS_FLAGS: dict[Any, Any] = {
    int: WHOLE_NUMBER,
    int | None: WHOLE_NUMBER | None,
    tuple[int, ...]: tuple[WHOLE_NUMBER, ...],
}


class Seeds(Settings):
    """How many agents are trained, and from which seed."""

    num_seeds: int = static(1, "agents trained at once, each from its own seed", SMALL_COUNT)
    seed: int = static(0, "seed from which the agents' keys are split; not jax.random.key(seed) itself", SEED)

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
    """A flag with its default; that of a field within a field is spelt with a dot, `--network.hidden-sizes`."""
    spelt = name.replace(WITHIN, ".").replace("_", "-") if WITHIN in name else None
    kind = AS_FLAGS.get(kind, kind)
    return name, Annotated[kind, tyro.conf.arg(name=spelt, help=text)], dataclasses.field(default=default)


IMPORT_FLAG: Flag = (
    "imports",
    Annotated[
        tuple[str, ...], tyro.conf.arg(name="import", help="modules of yours that files name, as my_package.envs")
    ],
    dataclasses.field(default=()),
)


def settings_flags(settings: Any, prefix: str = "", **defaults: Any) -> list[Flag]:
    """A flag for each field of a class of settings, or of an object with fields, whose values are the defaults."""
    fields = [field for field in dataclasses.fields(settings) if field.name not in NOT_FIELDS]
    given = {} if isinstance(settings, type) else {field.name: getattr(settings, field.name) for field in fields}
    defaults = {field.name: field.default for field in fields} | given | defaults
    return [
        flag(f"{prefix}{x.name}", _kind(x, defaults[x.name]), defaults[x.name], x.metadata.get("help", ""))
        for x in fields
    ]


def _kind(field: dataclasses.Field[Any], default: Any) -> Any:
    """The type of a field as tyro reads it."""
    allowed = field.metadata.get("allowed")
    kind: Any = type(field.default)
    if allowed is not None and allowed.number is not None:
        kind = allowed.number
    elif kind is tuple:
        kind = tuple[str, ...] if field.name in WORDS else tuple[int, ...]
    return kind | None if default is None else kind


def config_flags(argv: list[str], num_seeds: int | None = None) -> list[Flag]:
    """A flag for every field of `Config`, its network and `Seeds`, and for the preset that gives the defaults."""
    name = _preset_name(argv)
    imports = _early_flags(argv, "--import")
    base = _base(name, _early_flag(argv, "--env"), _early_flag(argv, "--network"), imports)
    names: dict[str, Any] = {field: _name_in_flag(field, getattr(base, field)) for field in NAMED}
    network = [own for own in settings_flags(base.network, f"network{WITHIN}") if isinstance(own[2].default, PLAIN)]
    if num_seeds is None:
        num_seeds = 1024 if name == DEFAULT_PRESET else Seeds.num_seeds
    return [
        flag("preset", str | None, name, f"settings to start from: {', '.join(presets.names())}, or a file (*.toml)"),
        IMPORT_FLAG,
        *(own for own in settings_flags(base, "", **names) if own[0] != "env_params"),
        flag("env_params", tuple[str, ...], (), "parameters of the environment, as name=value pairs"),
        *network,
        *settings_flags(Seeds, num_seeds=num_seeds),
    ]


def _name_in_flag(field: str, value: Any) -> str | None:
    """How a flag names an environment, a network or a function; None where it has no name."""
    if isinstance(value, str):
        return value
    ours = [name for name, kind in TYPES.get(field, {}).items() if kind is type(value)]
    return ours[0] if ours and field != "env" else None


def _base(name: str | None, env: str | None, network: str | None, imports: Sequence[str]) -> Config:
    """The configuration that the other flags change: a preset with its environment and its network.

    Raises:
        ConfigError: one cannot be used.
    """
    with_cwd(imports)
    config = Config() if name is None else preset(name, imports=imports)
    chosen = {"env": env, "network": network}
    named = {field: _named(field, text, imports) for field, text in chosen.items() if text is not None}
    if network is not None and network == _name_in_flag("network", config.network):
        del named["network"]  # it has the preset's fields
    return override(config, named)


def _named(field: str, text: Any, imports: Sequence[str] = ()) -> Any:
    """What a flag names: a module that is named on the command line is chosen by the user."""
    if is_path(text):
        imports = [text.partition(":")[0]]
        with_cwd(imports)
    return to_objects({field: text}, imports=imports)[field]


def with_cwd(modules: Sequence[str]) -> None:
    """Let modules of the working directory be found, as `python -m` does, if any are named."""
    if modules and "" not in sys.path:
        sys.path.append("")


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
    values, defaults = vars(flags), {field.name: field.default for field in dataclasses.fields(flags)}
    base = _base(flags.preset, flags.env, flags.network, flags.imports)
    changed = {name: value for name, value in values.items() if value != defaults[name]}
    fields = {field.name for field in dataclasses.fields(Config)} - {"env", "network", "env_params"}
    changes = {name: _named(name, value) for name, value in changed.items() if name in fields}
    changes |= {name.replace(WITHIN, "."): value for name, value in changed.items() if WITHIN in name}
    return override(base, changes | _env_params(flags.env_params))


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


def _early_flags(argv: list[str], flag: str) -> list[str]:
    """All values of a flag that takes several."""
    values: list[str] = []
    for index, argument in enumerate(argv):
        if argument == flag:
            values += itertools.takewhile(lambda text: not text.startswith("-"), argv[index + 1 :])
        elif argument.startswith(f"{flag}="):
            values.append(argument.removeprefix(f"{flag}="))
    return values


def _env_params(pairs: Sequence[str]) -> dict[str, float]:
    """Changes of the environment's parameters."""
    changes: dict[str, float] = {}
    for pair in pairs:
        name, _, text = pair.partition("=")
        try:
            changes[f"env_params.{name}"] = float(text)
        except ValueError:
            raise ConfigError(f"env_params={pair!r}: must be name=number") from None
    return changes
