"""Programs of sweeps that many tests share."""

import jax
import numpy as np

from purejaxppo.experiment.sweeps import sweep as sweeps

_compile = sweeps._compile
_programs: dict[object, sweeps.Program] = {}


def compiled_once(inputs, batch_size):
    """`sweeps._compile`, or what it gave for the same program before."""
    config, *_ = sweeps._batch(inputs, np.arange(1))
    shapes = [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(config)]
    key = (jax.tree.structure(config), *shapes, batch_size)
    if key not in _programs:
        _programs[key] = _compile(inputs, batch_size)
    return _programs[key]
