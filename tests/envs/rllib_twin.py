"""The games as environments of RLlib."""

from __future__ import annotations

from ray.rllib.env.multi_agent_env import MultiAgentEnv

from tests.envs import games


def as_multi_agent(game, only_all=False, forgetful=False):
    """The same game with RLlib's interface and ids that are numbers.

    only_all: ends of the whole team are said by "__all__" alone.
    forgetful: those who terminate get no last observation.
    """

    class Twin(MultiAgentEnv):
        def __init__(self, config=None):
            super().__init__()
            self.config = config
            self.game = game(**(config or {}))
            self.names = dict(enumerate(self.game.possible_agents))
            self.possible_agents = list(self.names)
            self.agents = list(self.names)
            self.observation_spaces = {n: self.game.observation_space(a) for n, a in self.names.items()}
            self.action_spaces = {n: self.game.action_space(a) for n, a in self.names.items()}
            if hasattr(game, "state") and game.state is not games.ParallelEnv.state:
                self.state = self.game.state

        def numbered(self, given):
            return {n: given[a] for n, a in self.names.items() if a in given}

        def reset(self, *, seed=None, options=None):
            return tuple(map(self.numbered, self.game.reset(seed=seed)))

        def step(self, actions):
            answer = self.game.step({self.names[n]: action for n, action in actions.items()})
            obs, rewards, ends, cuts, infos = map(self.numbered, answer)
            if forgetful:
                for n in [n for n, end in ends.items() if end]:
                    del obs[n]
            everyone = not self.game.agents
            for flags in (ends, cuts):
                together = everyone and all(flags.values())
                if only_all and together:
                    flags.clear()
                flags["__all__"] = together
            ends["__all__"] = ends["__all__"] or (everyone and not cuts["__all__"])
            return obs, rewards, ends, cuts, infos

    return Twin
