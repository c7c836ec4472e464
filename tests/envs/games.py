"""Small PettingZoo environments: one of every kind of space, masks, agents that leave, and things we refuse."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv


class Game(ParallelEnv):
    """Three agents move along a line of six places; what they see and do differs between games. Steps draw nothing."""

    metadata: ClassVar = {"name": "game"}
    places = 6

    def __init__(self, length=12):
        self.possible_agents = ["ann", "bob", "cleo"]
        self.agents = []
        self.length = length
        self.observation_spaces = {agent: self.sees(agent) for agent in self.possible_agents}
        self.action_spaces = {agent: self.acts(agent) for agent in self.possible_agents}

    def observation_space(self, agent):
        return self.observation_spaces[agent]

    def action_space(self, agent):
        return self.action_spaces[agent]

    def sees(self, agent):
        return spaces.Box(-1, 1, (2, 2), np.float32)

    def acts(self, agent):
        return spaces.Discrete(3)

    def reset(self, seed=None, options=None):
        if seed is not None or not hasattr(self, "random"):
            self.random = np.random.default_rng(seed)
        self.agents, self.time = list(self.possible_agents), 0
        self.place = dict(zip(self.agents, self.random.integers(self.places, size=3).tolist(), strict=True))
        return {agent: self.observe(agent) for agent in self.agents}, self.infos()

    def step(self, actions):
        self.time += 1
        for agent, action in actions.items():
            self.place[agent] = int(np.clip(self.place[agent] + self.move(agent, action), 0, self.places - 1))
        acted, cut = self.agents, self.time >= self.length
        obs = {agent: self.observe(agent) for agent in acted}
        rewards = {agent: float(self.place[agent]) for agent in acted}
        leaves = {agent: self.leaves(agent) for agent in acted}
        cuts = {agent: cut and not leaves[agent] for agent in acted}
        self.agents = [] if cut else [agent for agent in acted if not leaves[agent]]
        return obs, rewards, leaves, cuts, self.infos(acted)

    def move(self, agent, action):
        return int(action) - 1

    def observe(self, agent):
        x = self.place[agent] / self.places
        return np.array([[x, -x], [self.time / self.length, 0.5]], np.float32)

    def leaves(self, agent):
        return False

    def infos(self, agents=None):
        return {agent: {} for agent in agents or self.agents}


class Leavers(Game):
    """Agents leave when they reach the end of the line; there is a state of the game's own."""

    def leaves(self, agent):
        return self.place[agent] == self.places - 1

    def state(self):
        return np.array([*self.place.values(), self.time], np.float64)


class Continuous(Game):
    """Boxes of unequal shapes with bounds of their own: ann (1,), bob (2, 1), cleo (3,)."""

    def acts(self, agent):
        shape = {"ann": (1,), "bob": (2, 1), "cleo": (3,)}[agent]
        return spaces.Box(np.full(shape, -2, np.float32), np.full(shape, 4, np.float32))

    def sees(self, agent):
        return spaces.Discrete(6, start=10) if agent == "bob" else super().sees(agent)

    def observe(self, agent):
        return self.place["bob"] + 10 if agent == "bob" else super().observe(agent)

    def move(self, agent, action):
        space = self.action_space(agent)
        assert action.shape == space.shape and action.dtype == space.dtype and space.contains(action)
        return int(np.rint(action.sum()))


class Masked(Game):
    """Nobody may leave the line: masks stand in the observations, and choices are counted from 5."""

    def sees(self, agent):
        mask = spaces.Box(0, 1, (3,), np.int8)
        return spaces.Dict({"observation": super().sees(agent), "action_mask": mask})

    def acts(self, agent):
        return spaces.Discrete(3, start=5)

    def mask(self, agent):
        place = self.place[agent]
        return np.array([place > 0, True, place < self.places - 1], np.int8)

    def observe(self, agent):
        return {"observation": super().observe(agent), "action_mask": self.mask(agent)}

    def move(self, agent, action):
        assert self.mask(agent)[action - 5], f"{agent} chose {action}, which is unavailable"
        return int(action) - 6


class MaskedInInfos(Leavers):
    """The same in the infos, and for ann only. Agents leave."""

    def infos(self, agents=None):
        infos = super().infos(agents)
        if "ann" in infos:
            infos["ann"]["action_mask"] = np.array([self.place["ann"] > 0, True, True], np.int8)
        return infos

    def move(self, agent, action):
        assert agent != "ann" or action or self.place["ann"]
        return int(action) - 1


class LateMasks(Game):
    """No masks at first. bob joins after a step and may never go back; from the third step on ann may not stay."""

    def reset(self, seed=None, options=None):
        obs, _ = super().reset(seed)
        self.agents = ["ann", "cleo"]
        return {agent: obs[agent] for agent in self.agents}, self.infos()

    def step(self, actions):
        joins = self.time == 0
        answer = super().step(actions)
        if joins:
            self.agents.insert(1, "bob")
            answer[0]["bob"] = self.observe("bob")
            answer[4]["bob"] = self.infos(["bob"])["bob"]
        return answer

    def mask(self, agent):
        return {"bob": [0, 1, 1], "ann": [1, 0, 1] if self.time >= 3 else None}.get(agent)

    def infos(self, agents=None):
        masks = {agent: self.mask(agent) for agent in agents or self.agents}
        return {agent: {} if mask is None else {"action_mask": mask} for agent, mask in masks.items()}

    def move(self, agent, action):
        mask = self.mask(agent) if agent != "ann" or self.time > 3 else None  # time has passed since it was shown
        assert mask is None or mask[action], f"{agent} chose {action}, which is unavailable"
        return int(action) - 1


class Guests(Game):
    """Agents come late, go and return; what they see tells steps and agents apart. Written down for the last game."""

    present: ClassVar = {"ann": {0, 1, 4, 5, 6, 7, 8, 9, 11}, "bob": {2, 3, 7, 8}, "cleo": set(range(12)) - {6}}
    told: ClassVar = []  # of every step: whether an episode begins, the observations, and the actions

    def acts(self, agent):
        return spaces.Box(-1, 1, (2,), np.float32)

    def who(self):
        return [agent for agent in self.possible_agents if self.time in self.present[agent]]

    def observe(self, agent):
        n = self.possible_agents.index(agent)
        return np.sin(3.0 * np.arange(4) + 5 * n + 2 * self.time + self.place[agent]).reshape(2, 2).astype(np.float32)

    def reset(self, seed=None, options=None):
        super().reset(seed)
        self.agents = self.who()
        self.seen = {agent: self.observe(agent) for agent in self.agents}
        return self.seen, self.infos()

    def step(self, actions):
        self.told.append((self.time == 0, self.seen, actions))
        acted = self.agents
        self.time += 1
        for agent, action in actions.items():
            self.place[agent] = float(np.clip(self.place[agent] + action[0], 0, self.places - 1))
        over = self.time >= self.length
        self.agents = [] if over else self.who()
        there = {agent: agent in self.agents for agent in acted}
        self.seen = {agent: self.observe(agent) for agent in self.agents}
        obs = self.seen | {agent: self.observe(agent) for agent in acted}
        rewards = {agent: float(self.place[agent]) for agent in acted}
        cuts = {agent: over for agent in acted}
        ends = {agent: not (over or there[agent]) for agent in acted}
        return obs, rewards, ends, cuts, self.infos(list(obs))


class Stuck(Masked):
    """After some steps bob has no choice left."""

    def observe(self, agent):
        seen = super().observe(agent)
        if agent == "bob" and self.time == 3:
            seen["action_mask"] = np.zeros(3, np.int8)
        return seen


class Several(Game):
    """Actions of several components: ann MultiDiscrete, bob Discrete, cleo MultiBinary; masks of ann and bob in infos.

    Everyone moves by the first component, and asserts that the others are allowed.
    """

    def acts(self, agent):
        return {
            "ann": spaces.MultiDiscrete([3, 2], start=[4, -1]),
            "bob": spaces.Discrete(3, start=1),
            "cleo": spaces.MultiBinary((2, 2)),
        }[agent]

    def infos(self, agents=None):
        infos = super().infos(agents)
        if "ann" in infos:
            infos["ann"]["action_mask"] = (np.array([self.place["ann"] > 0, 1, 1], np.int8), np.array([0, 1], np.int8))
        if "bob" in infos:
            infos["bob"]["action_mask"] = np.array([1, 0, 1], np.int8)
        return infos

    def move(self, agent, action):
        assert self.action_space(agent).contains(action), (agent, action)
        if agent == "ann":
            assert action[1] == 0 and (action[0] > 4 or self.place["ann"])
            return int(action[0]) - 5
        if agent == "bob":
            assert action != 2
            return action - 2
        return int(action[0, 0]) - int(action[0, 1])


class Pictures(Game):
    """Everyone sees uint8 images [8, 9, 3] of the line: its own place in red, those of others in green."""

    def sees(self, agent):
        return spaces.Box(0, 255, (8, 9, 3), np.uint8)

    def observe(self, agent):
        picture = np.zeros((8, 9, 3), np.uint8)
        for other, place in self.place.items():
            picture[2:6, place + 1 : place + 3, 0 if other == agent else 1] = 255
        return picture


class PicturesFromAbove(Pictures):
    """The same, with an image of the whole line as the global state."""

    def state(self):
        picture = np.zeros((4, 9, 3), np.uint8)
        for n, place in enumerate(self.place.values()):
            picture[:, place, n] = 255
        return picture
