"""PettingZoo environments: the arrays are what the environments say, and what we cannot represent is refused."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium import spaces
from pettingzoo.test import parallel_api_test

from lorasa_rllib.envs.base import TeamEnvError
from lorasa_rllib.envs.pettingzoo import PettingZooTeam
from tests.envs import games

ENVIRONMENTS = {
    "plain": {"env": games.Game},
    "leavers": {"env": games.Leavers},
    "leavers, one reward": {"env": games.Leavers, "team_reward": "mean"},
    "continuous": {"env": games.Continuous},
    "masked": {"env": games.Masked},
    "masked in infos": {"env": games.MaskedInInfos},
    "spread": {"env": "mpe2.simple_spread_v3", "max_cycles": 7},
    "spread, continuous": {"env": "mpe2.simple_spread_v3:parallel_env", "continuous_actions": True, "max_cycles": 7},
    "speaker": {"env": "mpe2.simple_speaker_listener_v4", "max_cycles": 9},
}
LARGEST = float(np.finfo(np.float32).max)
OURS = {"env", "team_reward", "max_episode_steps", "id_capacity"}


def raw(config):
    """The environment itself."""
    import importlib

    env, options = config["env"], {name: value for name, value in config.items() if name not in OURS}
    if isinstance(env, str):
        env = importlib.import_module(env.partition(":")[0]).parallel_env
    return env(**options)


def random_actions(spec, rng, masks):
    """Choices or numbers within the bounds, [E, N] or [E, N, d]."""
    if not spec.continuous:
        return (rng.random(masks.shape) * masks).argmax(-1)
    low, high = spec.action_bounds()
    return (low + rng.random((2, *low.shape)) * (high - low)).astype(np.float32)


def flat(space, observation):
    if isinstance(space, spaces.Dict):
        space, observation = space["observation"], observation["observation"]
    if isinstance(space, spaces.Discrete):
        return np.eye(space.n)[observation - space.start]
    return np.asarray(observation).ravel()


@pytest.mark.parametrize("game", [games.Game, games.Leavers, games.Continuous, games.Masked])
def test_the_games_are_proper_pettingzoo_environments(game):
    parallel_api_test(game(), num_cycles=50)


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_arrays_are_what_the_environment_says(name):
    """Random play; two copies are the environment with the seeds 3 and 4, episode after episode."""
    config = ENVIRONMENTS[name]
    team, twins = PettingZooTeam(2, **config), [raw(config) for _ in range(2)]
    spec, rng = team.spec, np.random.default_rng(0)
    seen = [(*twin.reset(seed=3 + e), set(twin.agents)) for e, twin in enumerate(twins)]
    step, episodes = team.reset(seed=3), 0
    for _ in range(60):
        for e, (obs, infos, present) in enumerate(seen):
            check_rows(spec, twins[e], step, e, obs, infos, present)
        masks = spec.action_mask()[None].repeat(2, 0) if step.masks is None else step.masks.copy()
        actions = random_actions(spec, rng, masks)
        step = team.step(actions)
        for e, twin in enumerate(twins):
            acted = list(twin.agents)
            obs, rewards, ends, cuts, infos = twin.step(moves_of(spec, twin, actions[e]))
            earned = np.array([rewards.get(agent, 0.0) for agent in spec.agents])
            np.testing.assert_allclose(step.rewards[e], earned.mean() if spec.shared_reward else earned, rtol=1e-6)
            if step.left is not None:
                gone = [agent in acted and ends[agent] for agent in spec.agents]
                np.testing.assert_array_equal(step.left[e], gone)
            over, cut = not twin.agents, any(cuts[agent] for agent in acted)
            assert (step.terminated[e], step.truncated[e]) == (over and not cut, over and cut)
            assert (e in step.ended) == over
            if over:
                last = list(step.ended).index(e)
                for n, agent in enumerate(spec.agents):
                    size, space = spec.obs_sizes[n], twin.observation_space(agent)
                    expected = flat(space, obs[agent]) if agent in acted else np.zeros(size)
                    np.testing.assert_allclose(step.final_obs[last, n, :size], expected, rtol=1e-6)
                np.testing.assert_allclose(step.final_state[last], state_of(spec, twin, obs, acted), rtol=1e-6)
                obs, infos = twin.reset()
                episodes += 1
            seen[e] = (obs, infos, set(twin.agents))
    assert episodes > 6
    team.close()


def check_rows(spec, twin, step, e, obs, infos, present):
    for n, agent in enumerate(spec.agents):
        assert step.active[e, n] == (agent in present)
        size, space = spec.obs_sizes[n], twin.observation_space(agent)
        expected = flat(space, obs[agent]) if agent in present else np.zeros(size)
        np.testing.assert_allclose(step.obs[e, n, :size], expected, rtol=1e-6)
        assert not step.obs[e, n, size:].any()
        if step.masks is not None and agent in present:
            in_obs = obs[agent].get("action_mask") if isinstance(obs[agent], dict) else None
            mask = infos[agent].get("action_mask", in_obs)
            mask = np.ones(spec.action_sizes[n]) if mask is None else mask
            np.testing.assert_array_equal(step.masks[e, n], np.pad(mask, (0, spec.action_size - len(mask))))
    np.testing.assert_allclose(step.state[e], state_of(spec, twin, obs, present), rtol=1e-6)


def state_of(spec, twin, obs, present):
    try:
        return twin.state().ravel()
    except NotImplementedError:
        rows = [(flat(twin.observation_space(a), obs[a]), a in present) for a in spec.agents if a in obs]
        assert len(rows) == spec.num_agents
        return np.concatenate([row * there for row, there in rows])


def moves_of(spec, twin, actions):
    moves = {}
    for n, agent in enumerate(spec.agents):
        if agent in twin.agents:
            space, d = twin.action_space(agent), spec.action_sizes[n]
            move = actions[n] + space.start if not spec.continuous else actions[n, :d].reshape(space.shape)
            moves[agent] = move
    return moves


def test_spec_without_building_copies():
    spec = PettingZooTeam.team_spec(env=games.Continuous)
    assert spec.agents == ("ann", "bob", "cleo")
    assert (spec.obs_sizes, spec.action_sizes) == ((4, 6, 4), (1, 2, 3))
    assert spec.action_low == ((-2.0,), (-2.0,) * 2, (-2.0,) * 3) and spec.action_high[0] == (4.0,)
    assert spec.state_size == 14 and not spec.shared_reward and not spec.has_masks
    assert PettingZooTeam.team_spec(env=games.Masked).has_masks
    assert PettingZooTeam.team_spec(env=games.Leavers, team_reward="sum").shared_reward


def test_time_limit_of_ours():
    team = PettingZooTeam(1, env=games.Game, max_episode_steps=5)
    team.reset(seed=0)
    ends = [bool(team.step(np.ones((1, 3), np.int64)).truncated[0]) for _ in range(12)]
    assert [t for t, end in enumerate(ends) if end] == [4, 9]


def one_space(observation=None, action=None):
    class Odd(games.Game):
        def sees(self, agent):
            return super().sees(agent) if observation is None else observation

        def acts(self, agent):
            return super().acts(agent) if action is None or agent == "ann" else action

    return Odd


class Generated:
    """Agents come and go: there is no list of possible ones."""

    def reset(self, seed=None):
        return {}, {}

    def step(self, actions):
        return {}, {}, {}, {}, {}


BOX = spaces.Box(-1, 1, (2,), np.float32)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "env=None must name a module"),
        ({"env": "no_such_package.game"}, "cannot be imported"),
        ({"env": "mpe2.simple_spread_v3:no_such_name"}, "cannot be imported"),
        ({"env": "mpe2.simple_spread_v3", "colour": "red"}, "does not take the settings .'colour'."),
        ({"env": "mpe2.simple_spread_v3:env"}, "takes turns"),
        ({"env": Generated}, "has no possible_agents"),
        ({"env": one_space(spaces.Text(5))}, "observation space of agent 'ann'.*must be a Box, Discrete, Multi"),
        ({"env": one_space(spaces.Dict(a=BOX, b=spaces.Text(5)))}, "'ann'.* and Text.* in it cannot be flattened"),
        ({"env": one_space(spaces.Dict(action_mask=BOX))}, "'ann'.*must have 3 entries, one for each choice"),
        ({"env": one_space(action=spaces.Tuple([BOX]))}, "action space of agent 'bob'.*Box, Discrete, MultiDiscrete"),
        ({"env": one_space(action=spaces.Box(0, 3, (2,), np.int32))}, "action space of agent 'bob'.*floating"),
        ({"env": one_space(action=spaces.Box(-np.inf, np.inf, (2,)))}, r"bounds from -1e\+15 to 1e\+15"),
        ({"env": one_space(action=spaces.Box(-LARGEST, LARGEST, (2,)))}, r"bounds from -1e\+15 to 1e\+15"),
        ({"env": one_space(action=BOX)}, "discrete and with continuous"),
        ({"env": games.Game, "team_reward": "most"}, "team_reward='most'"),
        ({"env": games.Game, "max_episode_steps": 0}, "max_episode_steps=0"),
    ],
)
def test_what_we_cannot_represent_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        PettingZooTeam.team_spec(**config)


def test_pictures():
    team = PettingZooTeam(1, env="mpe2.simple_spread_v3", render_mode="rgb_array")
    team.reset(seed=0)
    assert team.render().ndim == 3
    with pytest.raises(NotImplementedError, match="render_mode"):
        plain = PettingZooTeam(1, env="mpe2.simple_spread_v3")
        plain.reset(seed=0)
        plain.render()
    with pytest.raises(NotImplementedError, match=r"Game cannot be rendered \(NotImplementedError\(\)\).*render\(\)"):
        PettingZooTeam(1, env=games.Game).render()


def without(part, value=None):
    """A game whose steps lack bob's `part`, or have `value` in its place."""

    class Lacking(games.Game):
        def step(self, actions):
            answer = list(super().step(actions))
            if value is None:
                del answer[part]["bob"]
            else:
                answer[part]["bob"] = value
            return answer

    return Lacking


@pytest.mark.parametrize(
    ("game", "message"),
    [
        (without(0), r"agent 'bob' was given no observation, only \['ann', 'cleo'\] came with one"),
        (without(1), "agent 'bob' was given no reward, only"),
        (without(2), "agent 'bob' was given no termination, only"),
        (without(3), "agent 'bob' was given no truncation, only"),
        (without(1, "much"), "agent 'bob' was given the reward 'much'.*team_reward"),
        (without(1, np.zeros(2)), r"agent 'bob' was given the reward array.*of shape \(2,\)"),
    ],
)
def test_what_a_step_lacks_is_an_error_with_the_agents_name(game, message):
    team = PettingZooTeam(1, env=game)
    team.reset(seed=0)
    with pytest.raises(TeamEnvError, match=message):
        team.step(np.ones((1, 3), np.int64))


def test_a_stranger_is_an_error():
    class Visited(games.Game):
        def reset(self, seed=None, options=None):
            obs, infos = super().reset(seed)
            self.agents = [*self.agents, "dora"]
            return {**obs, "dora": obs["ann"]}, infos

    with pytest.raises(TeamEnvError, match="agent 'dora' is not one of the possible_agents"):
        PettingZooTeam(1, env=Visited).reset(seed=0)


@pytest.mark.parametrize(
    ("module", "name", "remedy"),
    [
        ("mpe2.simple_spread_v3", "mpe2", "pip install mpe2"),
        ("pettingzoo.sisl.pursuit_v4", "pygame", r'pip install "pettingzoo\[sisl\]"'),
        ("no_such_package.game", "no_such_package", "Install the package that has the module 'no_such_package'"),
    ],
)
def test_a_missing_package_is_named(monkeypatch, module, name, remedy):
    def missing(_):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr("lorasa_rllib.envs.pettingzoo_games.importlib.import_module", missing)
    with pytest.raises(ValueError, match=f"cannot be imported.*{remedy}"):
        PettingZooTeam.team_spec(env=module)
