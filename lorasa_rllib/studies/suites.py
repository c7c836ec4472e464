"""Suites: families of tasks that share options and presets."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lorasa_rllib.studies.choices import StudyOptions
from lorasa_rllib.studies.presets import preset_of

SMOKE_EPISODE = 40
ROLE_CHANGES = 0.02
"""Probability per step that an agent of the synthetic team redraws its role: about twice per episode."""


@dataclass(frozen=True)
class Suite:
    """What differs between suites.

    option:      name of the option that chooses scenarios; form: description of its values; default: its default.
    environment: (options, scenario) -> registered name and `env_config`.
    observed:    (env_config) -> kind of observations, for tables.
    episodes:    number per greedy evaluation.
    title:       of figures: the package that provides the environments.
    roles:       whether adapters may be keyed by role. states: whether there are several kinds of global state.
    joints:      whether observations have a range in joints. pattern: regular expression of valid scenarios.
    named:       environment settings determined by the scenario's name.
    """

    option: str
    form: str
    default: str
    environment: Callable[[StudyOptions, str], tuple[str, dict[str, Any]]]
    observed: Callable[[dict[str, Any]], str]
    episodes: int
    title: str
    roles: bool = False
    states: bool = False
    joints: bool = False
    pattern: str = ".+"
    named: tuple[str, ...] = ("map_name",)


def _mamujoco(options: StudyOptions, scenario: str) -> tuple[str, dict[str, Any]]:
    preset = preset_of("mamujoco", scenario, options.preset)
    task, _, factorisation = scenario.partition("-")
    env_config: dict[str, Any] = {
        "scenario": task,
        "agent_conf": factorisation,
        "obs": options.obs or (preset.obs if options.agent_obsk is None else "local"),
        "agent_obsk": preset.agent_obsk if options.agent_obsk is None else options.agent_obsk,
    }
    return "mamujoco", env_config | ({"max_episode_steps": SMOKE_EPISODE} if options.smoke else {})


def _joints(env_config: dict[str, Any]) -> str:
    return f"local k={env_config['agent_obsk']}" if env_config["obs"] == "local" else "global"


def _battle(suite: str) -> Callable[[StudyOptions, str], tuple[str, dict[str, Any]]]:
    def environment(options: StudyOptions, scenario: str) -> tuple[str, dict[str, Any]]:
        env_config: dict[str, Any] = {
            "map_name": scenario,
            "state": options.state or preset_of(suite, scenario, options.preset).state,
        }
        if options.smoke:
            env_config["max_episode_steps"] = SMOKE_EPISODE
        second = suite == "smac" and re.fullmatch(r"(terran|protoss|zerg)_\d+_vs_\d+", scenario)
        return ("smacv2" if second else suite), env_config

    return environment


def _pettingzoo(options: StudyOptions, scenario: str) -> tuple[str, dict[str, Any]]:
    return "pettingzoo", {"env": scenario} | ({"max_episode_steps": SMOKE_EPISODE} if options.smoke else {})


def _vmas(options: StudyOptions, scenario: str) -> tuple[str, dict[str, Any]]:
    return "vmas", {"scenario": scenario} | ({"max_episode_steps": SMOKE_EPISODE} if options.smoke else {})


def _synthetic(options: StudyOptions, scenario: str) -> tuple[str, dict[str, Any]]:
    """Agents have individual rewards, so that results depend on sharing rather than on credit assignment."""
    agents, _, settings = scenario.partition(":")
    asked: dict[str, Any] = {}
    for part in filter(None, settings.split(",")):
        key, _, text = part.partition("=")
        try:
            asked[key] = {"difference": float, "roles": int}[key](text)
        except (KeyError, ValueError):
            raise ValueError(f"{scenario}: {part} is not a setting; use difference (0 to 1), roles (count).") from None
    env_config: dict[str, Any] = {
        "num_agents": int(agents),
        "obs_size": 8,
        "shared_reward": False,
        "difference": asked.get("difference", 1.0),
    }
    if "roles" in asked:
        env_config |= {"num_roles": asked["roles"], "targets": "role", "role_changes": ROLE_CHANGES}
    return "synthetic", env_config


def _units(env_config: dict[str, Any]) -> str:
    return "local"


SUITES = {
    "mamujoco": Suite(
        "scenario", "<scenario>-<factorisation>", "HalfCheetah-2x3", _mamujoco, _joints, 10,
        "gymnasium-robotics mamujoco_v1", joints=True, pattern=".+-.+", named=("scenario", "agent_conf"),
    ),
    "smax": Suite(
        "map", "a map of SMAX", "3s5z", _battle("smax"), _units, 32, "SMAX (jaxmarl)", roles=True, states=True
    ),
    "smac": Suite(
        "map", "a map of SMAC, or <race>_<n>_vs_<m> of SMACv2", "3s5z", _battle("smac"), _units, 32,
        "SMAC (StarCraft II)", roles=True, states=True,
    ),
    "pettingzoo": Suite(
        "env-name", "a module with a parallel environment", "mpe2.simple_spread_v3", _pettingzoo, _units, 10,
        "PettingZoo", named=("env",),
    ),
    "vmas": Suite(
        "scenario", "a scenario of VMAS", "navigation", _vmas, _units, 32, "VMAS", named=("scenario",)
    ),
    "synthetic": Suite(
        "num-agents", "a number of agents, such as 64, and settings, such as 64:difference=0.25,roles=4", "4",
        _synthetic, _units, 16, "synthetic team", roles=True,
        pattern=r"[1-9]\d*(:[a-z]+=[\d.]+(,[a-z]+=[\d.]+)*)?", named=("num_agents",),
    ),
}  # fmt: skip
