"""The real packages, where they are installed: sizes of every map, seeded draws, battles on a scripted game.

Each in a process of its own: both packages do not fit into one.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from lorasa_rllib.envs.smacv2 import MAPS

SMAC = {  # map: observation, state, actions
    "3m": (30, 48, 9), "8m": (80, 168, 14), "3s5z": (128, 216, 14), "1c3s5z": (162, 270, 15),
    "3s5z_vs_3s6z": (136, 230, 15), "MMM": (160, 290, 16), "MMM2": (176, 322, 18),
}  # fmt: skip
SMACV2 = {
    "5_vs_5": (82, 120, 11), "10_vs_10": (162, 290, 16), "10_vs_11": (170, 306, 17), "20_vs_20": (322, 780, 26),
    "20_vs_23": (346, 858, 29),
}  # fmt: skip
PROTOSS = {
    "5_vs_5": (92, 130, 11), "10_vs_10": (182, 310, 16), "10_vs_11": (191, 327, 17), "20_vs_20": (362, 820, 26),
    "20_vs_23": (389, 901, 29),
}  # fmt: skip

SIZES = """
import json, sys
from lorasa_rllib.envs.registry import environment_class
env, *maps = sys.argv[1:]
specs = {name: environment_class(env).team_spec(map_name=name, state="global") for name in maps}
print(json.dumps({name: (s.obs_size, s.state_size, s.action_size) for name, s in specs.items()}))
"""

DRAWS = """
import json
from lorasa_rllib.envs.smacv2 import SMACv2Team
def draw(seed):
    game = SMACv2Team.make_game(seed, "terran_10_vs_11")
    return [repr(d.generate()) for _ in range(5) for d in game.env_key_to_distribution_map.values()]
print(json.dumps([draw(1), draw(1), draw(2)]))
"""

TOGETHER = """
from lorasa_rllib.envs.registry import environment_class
environment_class("smac").team_spec(map_name="3m")
try:
    environment_class("smacv2").team_spec()
except ValueError as error:
    print(error)
"""


def run(code: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def play(env: str, map_name: str) -> dict:
    """150 steps of two battles on a scripted game, see `scripted_game`; one game fails on the way."""
    script = Path(__file__).with_name("scripted_game.py")
    return json.loads(run(script.read_text(), env, map_name).splitlines()[-1])


def needs(*packages: str) -> None:
    for package in packages:
        if importlib.util.find_spec(package) is None or importlib.util.find_spec("pysc2") is None:
            pytest.skip(f"{package} is not installed (bash cluster/install_starcraft.sh)")


def test_every_map_of_smac_has_its_published_sizes():
    needs("smac")
    sizes = json.loads(run(SIZES, "smac", *SMAC))
    assert {name: tuple(size) for name, size in sizes.items()} == SMAC


def test_every_map_of_smacv2_has_its_published_sizes():
    needs("smacv2")
    for name, size in json.loads(run(SIZES, "smacv2", *MAPS)).items():
        race, _, numbers = name.partition("_")
        assert tuple(size) == (PROTOSS if race == "protoss" else SMACV2)[numbers], name


def test_a_seed_fixes_the_battles_that_smacv2_draws():
    needs("smacv2")
    first, again, other = json.loads(run(DRAWS).splitlines()[-1])
    assert first == again != other


def test_both_packages_in_one_process_are_refused():
    needs("smac", "smacv2")
    assert "cannot be used in a process that holds 'smac'" in run(TOGETHER)


def test_battles_of_smac_on_a_scripted_game():
    needs("smac")
    told = play("smac", "3m")
    assert told["won"] > 10 and told["lost"] > 5 and told["dead_seen"] > 0
    assert told["restarts"] == told["cut"] == 1  # the game that failed; no battle reaches the limit
    assert told["first_roles"] == [[0, 0, 0], [0, 0, 0]]
    assert told["rewards"] > 20 * told["won"]  # scaled to 20 for a perfect battle; lost ones earn some, too


@pytest.mark.parametrize("map_name", ["terran_5_vs_5", "protoss_10_vs_11", "zerg_5_vs_5"])
def test_battles_of_smacv2_on_a_scripted_game(map_name):
    needs("smacv2")
    told = play("smacv2", map_name)
    assert told["restarts"] == 1 and told["cut"] >= 1 and told["lost"] + told["cut"] > 5 and told["dead_seen"] > 0
    assert play("smacv2", map_name) == told  # teams, places and all that follows, under the same seed
