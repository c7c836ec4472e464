"""Seeds SMACv2's draws for each battle (unit types, start positions), which the package itself does not support."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import random
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from smacv2.env.starcraft2.wrapper import StarCraftCapabilityEnvWrapper

SOURCES = ("choice", "shuffle", "default_rng")
"""Random sources of the package's distributions module: Python's global stream and unseeded generators."""


def draw_under_seed(game: StarCraftCapabilityEnvWrapper, seed: int) -> None:
    """Replaces the distributions of a `StarCraftCapabilityEnvWrapper` with seeded ones.

    They come from a private copy of the package's module whose random sources are replaced with streams derived from
    the seed. Seeding Python's global stream would not suffice: the games of an env runner draw from it concurrently.
    Distributions registered by the user are left unchanged.
    """
    module = _private_copy("smacv2.env.starcraft2.distributions")
    if missing := [name for name in SOURCES if not hasattr(module, name)]:
        raise ValueError(f"this version of smacv2 draws battles without {missing} and cannot be seeded; use 1.0.0.")
    stream, generators = random.Random(seed), np.random.SeedSequence(seed)
    module.choice, module.shuffle = stream.choice, stream.shuffle
    module.default_rng = lambda: np.random.default_rng(generators.spawn(1)[0])
    drawn = game.env_key_to_distribution_map
    for key in sorted(drawn):
        config = copy.deepcopy(game.distribution_config[key])  # some distributions shuffle its lists
        if (kind := module.DISTRIBUTION_MAP.get(config["dist_type"])) is not None:
            drawn[key] = kind(config)


def _private_copy(name: str) -> Any:
    """Loads a second, independent copy of a module; the imported one is unchanged."""
    spec = importlib.import_module(name).__spec__
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
