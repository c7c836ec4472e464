"""A scripted game underneath the real packages: it stands in for the controller of StarCraft II, and nothing else.

    python tests/envs/scripted_game.py smac 3m
    python tests/envs/scripted_game.py smacv2 terran_5_vs_5

plays battles through the adapter and prints what happened as JSON. Units stay where the package puts them; an attack
takes 20 health; every third step the first ally left dies; a game fails when it is told to.
"""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import numpy as np
from s2clientprotocol import raw_pb2, sc2api_pb2

from lorasa_rllib.envs.registry import environment_class


class Controller:
    """The part of pysc2's controller that the packages use."""

    def __init__(self, allies: list[int], enemies: list[int]):
        self.teams = {1: allies, 2: enemies}  # unit types that the map's trigger creates
        self.units: list[raw_pb2.Unit] = []
        self.targets: list[int] = []
        self.steps, self.tag, self.fails = 0, 0, False

    def create_game(self, request) -> None:
        self._spawn()

    def join_game(self, request) -> None:
        pass

    def game_info(self):
        grid = SimpleNamespace(bits_per_pixel=8, data=bytes(32 * 32))
        area = SimpleNamespace(p0=SimpleNamespace(x=0, y=0), p1=SimpleNamespace(x=32, y=32))
        size = SimpleNamespace(x=32, y=32)
        raw = SimpleNamespace(playable_area=area, map_size=size, pathing_grid=grid, terrain_height=grid)
        return SimpleNamespace(start_raw=raw)

    def data(self):
        return SimpleNamespace(units=range(1970))  # all unit types, SMAC's own at the end

    def observe(self):
        response = sc2api_pb2.ResponseObservation()
        response.observation.raw_data.units.extend(self.units)
        return response

    def actions(self, request) -> None:
        if self.fails:
            from pysc2.lib.protocol import ConnectionError as Lost

            self.fails = False
            raise Lost("the game is gone")
        for action in request.actions:
            command = action.action_raw.unit_command
            if command.HasField("target_unit_tag"):
                self.targets.append(command.target_unit_tag)

    def step(self, count: int) -> None:
        if count < 8:  # the packages wait for units
            return
        self.steps += 1
        for unit in self.units:
            unit.health -= 20 * self.targets.count(unit.tag)
        self.targets = []
        allies, enemies = ([u for u in self.units if u.owner == owner] for owner in (1, 2))
        if self.steps % 3 == 0 and allies and enemies:
            allies[0].health = 0
        self.units = [unit for unit in self.units if unit.health > 0]

    def debug(self, commands) -> None:
        for command in commands:
            killed = set(command.kill_unit.tag)
            self.units = [unit for unit in self.units if unit.tag not in killed]
            if command.HasField("create_unit"):
                new = command.create_unit
                self._add(new.unit_type, new.owner, new.pos.x, new.pos.y)
        if not self.units:
            self._spawn()

    def _spawn(self) -> None:
        for owner, types in self.teams.items():
            for n, kind in enumerate(types):
                self._add(kind, owner, 14 + 4 * (owner - 1), 12 + 2 * n)

    def _add(self, kind: int, owner: int, x: float, y: float) -> None:
        self.tag += 1
        unit = raw_pb2.Unit(tag=self.tag, unit_type=kind, owner=owner, health=45, health_max=45, radius=0.4, energy=50)
        unit.pos.x, unit.pos.y = x, y
        self.units.append(unit)


def patch(module, allies: list[int], enemies: list[int]) -> None:
    """Puts scripted games where the package starts StarCraft."""

    def start(**window):
        return SimpleNamespace(controller=Controller(allies, enemies), close=lambda: None)

    config = SimpleNamespace(version=None, start=start, map_data=lambda path: b"")
    module.run_configs = SimpleNamespace(get=lambda version=None: config)


def main(env_name: str, map_name: str) -> None:
    cls = environment_class(env_name)
    spec = cls.team_spec(map_name=map_name)
    module = sys.modules[f"{env_name}.env.starcraft2.starcraft2"]
    marines = ([1] * spec.num_agents, [48] * spec.num_agents) if env_name == "smac" else ([], [])
    patch(module, *marines)
    cls.check_machine = classmethod(lambda c: None)
    env = cls(2, map_name=map_name, state="pruned", max_episode_steps=25)
    step, rng = env.reset(3), np.random.default_rng(0)
    told = {"won": 0, "lost": 0, "cut": 0, "first_roles": step.roles.tolist(), "rewards": 0.0, "dead_seen": 0}
    for t in range(150):
        assert step.masks.any(-1).all() and np.isfinite(step.obs).all() and np.isfinite(step.state).all()
        assert (step.roles >= 0).all() and (step.roles < spec.num_roles).all()
        told["dead_seen"] += int((~step.active).sum())
        attack = t % 50 < 25  # half of the time they fight, and otherwise move about
        choices = np.where(step.masks, rng.random(step.masks.shape), -1.0)
        choices[..., 6:] += np.where(step.masks[..., 6:], 1.0 if attack else -0.9, 0.0)
        if t == 75:
            package = env._games[0]._package
            getattr(package, "env", package)._controller.fails = True
        step = env.step(choices.argmax(-1))
        told["rewards"] += float(step.rewards.sum())
        told["won"] += int(step.won.sum())
        told["cut"] += int(step.truncated.sum())
        told["lost"] += int(step.terminated.sum() - step.won.sum())
    told["restarts"] = env.restarts
    print(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
