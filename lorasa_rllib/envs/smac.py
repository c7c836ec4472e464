"""SMAC, the StarCraft Multi-Agent Challenge (Samvelyan et al. 2019), package `smac`."""

from __future__ import annotations

from typing import Any

from lorasa_rllib.envs.starcraft import StarCraftTeam
from lorasa_rllib.envs.starcraft_game import StarCraftPackage
from lorasa_rllib.envs.starcraft_package import check_options, import_package


class SMACTeam(StarCraftTeam):
    """Battles on SMAC's maps, `map_name` 3s5z, MMM2, corridor, ...; other settings: see `StarCraftTeam`."""

    @classmethod
    def make_game(cls, seed: int | None, map_name: str = "3s5z", **options: Any) -> StarCraftPackage:
        package = import_package("smac", "smac.env.starcraft2.starcraft2")
        maps = import_package("smac", "smac.env.starcraft2.maps.smac_maps").get_smac_map_registry()
        if map_name not in maps:
            raise ValueError(f"map_name={map_name!r} is not a map of SMAC; choose one of {sorted(maps)}.")
        check_options(package.StarCraft2Env, options, ours=("map_name", "seed"))
        return package.StarCraft2Env(map_name=map_name, seed=seed, **options)
