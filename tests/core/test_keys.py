"""Keys: typed ones only, one at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purejaxppo import ConfigError
from purejaxppo.keys import check_key


def test_check_key():
    check_key(jax.random.key(0))
    for key in (jax.random.PRNGKey(0), 0, None, np.zeros(2, np.uint32)):
        with pytest.raises(ConfigError, match="key: must be a typed key"):
            check_key(key)
    with pytest.raises(ConfigError, match=r"single key, not an array of shape \(3,\)"):
        check_key(jax.random.split(jax.random.key(0), 3))
    jax.vmap(lambda key: check_key(key) or jnp.zeros(()))(jax.random.split(jax.random.key(0), 3))
