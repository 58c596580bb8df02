"""Policy and value networks."""

from typing import Any

import flax.linen as nn

from purejaxppo.errors import ConfigError, unknown_name
from purejaxppo.networks.base import Network, Recurrent, reset_memory
from purejaxppo.networks.cnn import CNN
from purejaxppo.networks.gru import GRU
from purejaxppo.networks.mlp import MLP

__all__ = ["CNN", "GRU", "MLP", "NETWORKS", "Network", "Recurrent", "reset_memory", "resolve"]

NETWORKS: dict[str, type[Network]] = {"mlp": MLP, "cnn": CNN, "gru": GRU}


def resolve(network: Any) -> Any:
    """A network by its name, or as it is: settings of a built-in one, or a flax module.

    Raises:
        ConfigError: there is none of that name, or it is neither.
    """
    if isinstance(network, str):
        if network not in NETWORKS:
            raise unknown_name("network", network, list(NETWORKS))
        return NETWORKS[network]()
    if isinstance(network, Network) or (isinstance(network, nn.Module) and _is_hashable(network)):
        return network
    names = ", ".join(map(repr, NETWORKS))
    module = "a hashable flax module from one observation to (distribution, value)"
    allowed = f"one of {names}, a Network such as MLP(), or {module}"
    raise ConfigError.of("network", network, allowed)


def _is_hashable(x: Any) -> bool:
    try:
        hash(x)
    except TypeError:
        return False
    return True
