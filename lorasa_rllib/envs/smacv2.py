"""SMACv2 (Ellis et al. 2023), package `smacv2`: every battle draws new unit types and start positions."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import Any

from lorasa_rllib.envs.smacv2_draws import draw_under_seed
from lorasa_rllib.envs.starcraft import StarCraftTeam
from lorasa_rllib.envs.starcraft_game import StarCraftPackage
from lorasa_rllib.envs.starcraft_package import check_options, import_package

TEAMS: dict[str, dict[str, object]] = {
    "terran": {
        "unit_types": ["marine", "marauder", "medivac"],
        "weights": [0.45, 0.45, 0.1],
        "exception_unit_types": ["medivac"],
    },
    "protoss": {"unit_types": ["stalker", "zealot", "colossus"], "weights": [0.45, 0.45, 0.1]},
    "zerg": {
        "unit_types": ["zergling", "baneling", "hydralisk"],
        "weights": [0.45, 0.1, 0.45],
        "exception_unit_types": ["baneling"],
    },
}
"""Published team distributions; a team never consists only of `exception_unit_types`."""

SIZES = ((5, 5), (10, 10), (10, 11), (20, 20), (20, 23))
MAPS = [f"{race}_{units}_vs_{enemies}" for race in TEAMS for units, enemies in SIZES]
"""The published maps; other numbers of units work too."""

START_POSITIONS = {"dist_type": "surrounded_and_reflect", "p": 0.5, "map_x": 32, "map_y": 32}
DEFAULTS = {"conic_fov": False, "obs_own_pos": True, "use_unit_ranges": True, "min_attack_range": 2}
"""Options of the published configurations, whether or not they equal the package's defaults."""


class SMACv2Team(StarCraftTeam):
    """Battles of SMACv2, `map_name` <race>_<units>_vs_<enemies>; other settings: see `StarCraftTeam`.

    capability_config: changes to the published distributions, such as {"team_gen": {"weights": [0.4, 0.4, 0.2]}}. An
                entry with a "dist_type" replaces the published one, others update it; new entries are added.
    With a seed, every run draws the same battles. Draws during a battle cannot be seeded: `prob_obs_enemy` below 1 and
    the capability "attack".
    """

    @classmethod
    def make_game(
        cls,
        seed: int | None,
        map_name: str = "terran_5_vs_5",
        capability_config: Mapping[str, Mapping[str, object]] | None = None,
        **options: Any,
    ) -> StarCraftPackage:
        named = re.fullmatch(r"(terran|protoss|zerg)_([1-9]\d*)_vs_([1-9]\d*)", map_name)
        if named is None:
            raise ValueError(
                f"map_name={map_name!r} is not a map of SMACv2; use <race>_<units>_vs_<enemies>, such as {MAPS[0]!r}. "
                "For maps of the first SMAC, which SMACv2 lists but cannot play, use environment 'smac'."
            )
        package = import_package("smacv2", "smacv2.env.starcraft2.wrapper")
        check_options(package.StarCraft2Env, options, ours=("map_name", "seed", "capability_config"))
        race, units, enemies = named[1], int(named[2]), int(named[3])
        game = package.StarCraftCapabilityEnvWrapper(
            capability_config=capabilities(race, units, enemies, capability_config or {}),
            map_name=f"10gen_{race}",
            seed=seed,
            **{**DEFAULTS, **options},
        )
        if seed is not None:
            draw_under_seed(game, seed)
        return game


def capabilities(race: str, units: int, enemies: int, changes: Mapping[str, Mapping[str, object]]) -> dict[str, object]:
    """The published `capability_config` with `changes`, as a deep copy: the package modifies its argument."""
    if sizes := sorted({"n_units", "n_enemies"} & set(changes)):
        raise ValueError(f"capability_config must not set {sizes}: map_name says how many, such as {race}_8_vs_9.")
    config: dict[str, Any] = {
        "n_units": units,
        "n_enemies": enemies,
        "team_gen": {"dist_type": "weighted_teams", "observe": True, **TEAMS[race]},
        "start_positions": START_POSITIONS,
    }
    for key, change in changes.items():
        config[key] = {**({} if "dist_type" in change else config.get(key, {})), **change}
        if "dist_type" not in config[key]:
            raise ValueError(f"capability_config[{key!r}] needs a 'dist_type', such as 'per_agent_uniform'.")
    return copy.deepcopy(config)
