"""Team environments as RLlib's `MultiAgentEnv`: the same episodes, and nothing of the next one leaks."""

from __future__ import annotations

import numpy as np
import pytest
from ray.rllib.utils.pre_checks.env import check_multiagent_environments

from lorasa_rllib import TeamMultiAgentEnv, shared_policy_spec
from lorasa_rllib.envs.base import TeamEnvError
from lorasa_rllib.envs.synthetic import SyntheticTeam
from lorasa_rllib.nn.policy import PolicyConfig
from tests.envs import games
from tests.rllib.test_stock import TEAMS


def act(env: TeamMultiAgentEnv, observations, rng) -> dict:
    spaces = env.action_spaces
    if env.team.spec.continuous:
        return {agent: rng.uniform(-1, 1, spaces[agent].shape).astype(np.float32) for agent in observations}
    return {agent: int(rng.choice(np.flatnonzero(row["action_mask"]))) for agent, row in observations.items()}


@pytest.mark.parametrize("team", ["continuous", "discrete with masks and deaths", "own rewards", "adapters by role"])
def test_an_episode_is_that_of_the_team_environment(team):
    """The same actions to the vector environment give the same rows, returns and ends, and nothing leaks."""
    env_config, _ = TEAMS[team]
    env, direct = TeamMultiAgentEnv({"env": "synthetic", "env_config": env_config}), SyntheticTeam(1, **env_config)
    spec, rng = direct.spec, np.random.default_rng(0)
    check_multiagent_environments(env)
    step, (rows, _) = direct.reset(11), env.reset(seed=11)
    ends = {"terminated": 0, "truncated": 0, "died": 0}
    for _ in range(60):
        alive = [agent for agent, active in zip(spec.agents, step.active[0], strict=True) if active]
        assert list(rows) == alive
        for agent, row in rows.items():
            assert env.observation_spaces[agent].contains(row)
            n = spec.agents.index(agent)
            assert row["agent"] == n
            np.testing.assert_array_equal(row["obs"], step.obs[0, n])
            np.testing.assert_array_equal(row["state"], step.state[0])
            if spec.has_masks:
                np.testing.assert_array_equal(row["action_mask"], step.masks[0, n])
            if spec.num_roles:
                assert row["role"] == step.roles[0, n]
        actions = act(env, rows, rng)
        joint = np.zeros((1, spec.num_agents, spec.action_dims), np.float32 if spec.continuous else np.int64)
        for agent, action in actions.items():
            joint[0, spec.agents.index(agent)] = action
        first_rows = {agent: {name: np.copy(value) for name, value in row.items()} for agent, row in rows.items()}
        last, rewards, terminated, truncated, _ = env.step(actions)
        step = direct.step(spec.to_environment(joint))
        for agent, row in first_rows.items():  # what was handed out before stays as it was
            assert all(np.array_equal(value, rows[agent][name]) for name, value in row.items())
        assert set(rewards) == set(alive)
        assert sum(rewards.values()) == pytest.approx(float(step.rewards.sum()), abs=1e-6)
        assert terminated["__all__"] == step.terminated[0] and truncated["__all__"] == step.truncated[0]
        for agent in set(last) - {agent for agent, active in zip(spec.agents, step.active[0], strict=True) if active}:
            if not len(step.ended):
                assert terminated[agent] and last[agent].get("action_mask", np.ones(1)).any()
                ends["died"] += 1
        if len(step.ended):
            ends["truncated" if step.truncated[0] else "terminated"] += 1
            assert list(last) == alive
            for agent, row in last.items():
                np.testing.assert_array_equal(row["obs"], step.final_obs[0, spec.agents.index(agent)])
                np.testing.assert_array_equal(row["state"], step.final_state[0])
            rows, _ = env.reset()  # the episode that began by itself, not one after it
        else:
            rows = {agent: row for agent, row in last.items() if agent not in terminated}
    assert ends["truncated"] and ends["terminated"] and (ends["died"] or not env_config.get("deaths"))


class Revives(SyntheticTeam):
    """Agent 1 is away in every third step, agent 2 arrives late; at step 7 nobody is left but the episode goes on."""

    def _answer(self, *args):
        self._active[:] = True
        self._active[:, 1] = self._time % 3 != 2
        self._active[:, 2] = self._time >= 2
        self._active[self._time >= 7] = False
        return super()._answer(*args)


def test_agents_may_arrive_late_but_do_not_return_and_an_empty_team_ends_the_episode():
    env = TeamMultiAgentEnv({"env": Revives, "env_config": {"num_agents": 3}})
    present, (rows, _) = [], env.reset(seed=0)
    terminated = {"__all__": False}
    while not terminated["__all__"]:
        present.append("".join(str(row["agent"]) for agent, row in rows.items() if not terminated.get(agent)))
        acting = {agent: np.zeros(2, np.float32) for agent in rows if not terminated.get(agent)}
        rows, rewards, terminated, _, _ = env.step(acting)
        assert set(rewards) == set(acting)
    assert present == ["01", "01", "02", "02", "02", "02", "02"]
    assert list(env.reset()[0]) == ["agent_0", "agent_1"]


def test_masks_that_come_after_the_first_reset_are_not_dropped_in_silence():
    """The rows' space was fixed without them; those of an environment that shows them at once are in the rows."""

    class Late(games.Game):
        def infos(self, agents=None):
            masks = {"bob": {"action_mask": [0, 1, 1]}} if self.time >= 2 else {}
            return {agent: masks.get(agent, {}) for agent in agents or self.agents}

    env = TeamMultiAgentEnv({"env": "pettingzoo", "env_config": {"env": Late}})
    env.reset(seed=0)
    env.step(dict.fromkeys(env.agents, 1))
    with pytest.raises(TeamEnvError, match="agent 'bob' was given an action mask, but the first reset"):
        env.step(dict.fromkeys(env.agents, 1))


class Turned(games.Game):
    """Its agents are listed in another order in each process."""

    def __init__(self, turn):
        super().__init__()
        self.possible_agents = [*self.possible_agents[turn:], *self.possible_agents[:turn]]


@pytest.mark.parametrize("turn", range(3))
def test_agents_have_the_same_numbers_whatever_the_order_of_the_environment(turn):
    settings = {"env": Turned, "turn": turn}
    own = Turned(turn).possible_agents
    spec = shared_policy_spec("pettingzoo", settings, "seps", groups=[0, 1, 1])  # of the first in its own order, ...
    policy = PolicyConfig.from_dict(spec.model_config)
    env = TeamMultiAgentEnv({"env": "pettingzoo", "env_config": settings})
    rows, _ = env.reset(seed=0)
    assert {name: int(row["agent"]) for name, row in rows.items()} == {"ann": 0, "bob": 1, "cleo": 2}
    assert policy.spec.agents == ("ann", "bob", "cleo")
    assert [policy.owners.backbone_of[policy.spec.agents.index(agent)] for agent in own] == [0, 1, 1]
