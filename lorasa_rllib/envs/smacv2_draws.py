"""What SMACv2 draws for every battle (unit types, places), under a seed. The package itself offers none."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import random
from typing import Any

import numpy as np

SOURCES = ("choice", "shuffle", "default_rng")
"""Where the package's module of distributions draws from: Python's shared stream, and unseeded generators."""


def draw_under_seed(game: Any, seed: int) -> None:
    """Replaces the distributions of a `StarCraftCapabilityEnvWrapper` by ones with streams of their own.

    They are built from a private copy of the package's module in which its sources of chance stand for streams that
    follow from the seed. To seed Python's shared stream would not do: the games of an env runner share it, and draw
    from it at the same time. Distributions that a program has registered itself keep their own ways.
    """
    module = _private_copy("smacv2.env.starcraft2.distributions")
    if missing := [name for name in SOURCES if not hasattr(module, name)]:
        raise ValueError(f"this version of smacv2 draws battles without {missing} and cannot be seeded; use 1.0.0.")
    stream, generators = random.Random(seed), np.random.SeedSequence(seed)
    module.choice, module.shuffle = stream.choice, stream.shuffle
    module.default_rng = lambda: np.random.default_rng(generators.spawn(1)[0])
    drawn = game.env_key_to_distribution_map
    for key in sorted(drawn):
        config = copy.deepcopy(game.distribution_config[key])  # some distributions shuffle what it holds
        if (kind := module.DISTRIBUTION_MAP.get(config["dist_type"])) is not None:
            drawn[key] = kind(config)


def _private_copy(name: str) -> Any:
    """A module once more, with names of its own; the one that others import stays as it is."""
    spec = importlib.import_module(name).__spec__
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
