"""Policies outside of training speak the language of spaces: observations in, actions out, files and exports."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces

from lorasa_rllib.envs.pettingzoo import PettingZooTeam
from lorasa_rllib.nn.network import NetworkConfig
from lorasa_rllib.policies.acting import LoadedPolicy, load_policy
from lorasa_rllib.policies.exporting import AgentNetwork, export_onnx, export_program
from lorasa_rllib.policies.folder import save_policy
from lorasa_rllib.policies.saved import saved
from tests.envs import games
from tests.helpers import make_policy, owner_tables

BOX = spaces.Box(-1, 1, (3,), np.float32)
OBSERVATIONS = {
    "Box": BOX,
    "image": spaces.Box(0, 255, (2, 2, 3), np.uint8),
    "float64": spaces.Box(-1, 1, (2, 2), np.float64),
    "scalar": spaces.Box(-1, 1, ()),
    "nothing": spaces.Box(-1, 1, (0,)),
    "Discrete": spaces.Discrete(5, start=2),
    "MultiDiscrete": spaces.MultiDiscrete([[2, 3]], start=[[0, 1]]),
    "MultiBinary": spaces.MultiBinary(4),
    "nested": spaces.Dict(pos=BOX, rest=spaces.Tuple([spaces.Discrete(3), spaces.Dict(x=spaces.MultiBinary(2))])),
}
ACTIONS = {
    "from 1": spaces.Discrete(3, start=1),
    "from -1": spaces.Discrete(3, start=-1),
    "MultiDiscrete": spaces.MultiDiscrete([[2, 3]], start=[[1, -1]], dtype=np.int32),
    "MultiBinary": spaces.MultiBinary([2, 2]),
    "2 x 2": spaces.Box(-1, 1, (2, 2)),
    "scalar": spaces.Box(0, 1, ()),
    "float64": spaces.Box(np.array([0.1, -0.3]), np.array([0.7, 1 / 3]), dtype=np.float64),
    "float16": spaces.Box(np.float16([0.1, -0.3]), np.float16([0.7, 1 / 3]), dtype=np.float16),
    "one value": spaces.Box(np.array([0.1, 0.0]), np.array([0.1, 1.0]), dtype=np.float64),
}


def game_of(sees, acts):
    """A game with these spaces for bob and cleo; ann differs in size."""

    class Spaced(games.Game):
        def sees(self, agent):
            return spaces.Discrete(7) if agent == "ann" else sees

        def acts(self, agent):
            if agent != "ann":
                return acts
            return spaces.Box(-1, 1, (5,)) if isinstance(acts, spaces.Box) else spaces.Discrete(4)

        def observe(self, agent):
            return self.observation_space(agent).sample()

        def move(self, agent, action):
            assert self.action_space(agent).contains(action), (agent, action)
            return 0

    return Spaced


def policy_of(game, network=None):
    spec = PettingZooTeam.team_spec(env=game)
    return spec, saved(make_policy(spec, owner_tables(3)["lora"], network=network).float())


def tensors(value):
    """An observation as the exported network takes it."""
    if isinstance(value, dict | tuple):
        parts = value.values() if isinstance(value, dict) else value
        found = [tensors(part) for part in parts]
        return tuple(x for part in found for x in (part if isinstance(part, tuple) else (part,)))
    return torch.as_tensor(np.asarray(value))[None]


CASES = [
    *(pytest.param(sees, ACTIONS["float64"], id=f"sees {name}") for name, sees in OBSERVATIONS.items()),
    *(pytest.param(OBSERVATIONS["nested"], acts, id=f"acts {name}") for name, acts in ACTIONS.items()),
]


@pytest.mark.parametrize("distribution", ["squashed_gaussian", "gaussian"])
@pytest.mark.parametrize(("sees", "acts"), CASES)
def test_what_the_environment_gives_goes_in_and_what_its_spaces_contain_comes_out(tmp_path, sees, acts, distribution):
    game = game_of(sees, acts)()
    spec, policy = policy_of(type(game), NetworkConfig(hidden_size=6, distribution=distribution))
    policy = load_policy(save_policy(policy, tmp_path / "policy"), seed=0)
    assert policy.spec == spec
    obs, _ = game.reset(seed=0)
    team = PettingZooTeam(1, env=type(game))
    for _ in range(20):
        for greedy in (True, False):
            actions, _ = policy.act(obs, greedy=greedy)
            for agent, action in actions.items():
                assert game.action_space(agent).contains(action), (agent, action)
        greedily, _ = policy.act(obs)
        rows = np.zeros((1, 3, spec.obs_size), np.float32)
        for n, agent in enumerate(spec.agents):
            flat = spaces.utils.flatten(game.observation_space(agent), obs[agent])
            rows[0, n, : len(flat)] = flat
            alone, _ = policy.act(obs[agent], agents=agent)
            assert game.action_space(agent).contains(alone)
            np.testing.assert_allclose(alone, greedily[agent], rtol=1e-4, atol=1e-5)
            network = AgentNetwork(policy.saved, agent)
            exported = network(tensors(obs[agent]))[0].numpy()
            assert game.action_space(agent).contains(exported)
            np.testing.assert_allclose(exported, greedily[agent], rtol=2e-3, atol=1e-4)
        arrays, _ = policy.act(rows)
        for n, agent in enumerate(spec.agents):
            row = np.ravel(arrays[0, n])[: np.size(greedily[agent])].reshape(np.shape(greedily[agent]))
            np.testing.assert_allclose(row, greedily[agent], rtol=2e-3, atol=1e-4)
        team.reset(seed=0)
        team.step(policy.choose(rows)[0])
        obs, *_ = game.step(policy.act(obs)[0])
        obs = obs if game.agents else game.reset()[0]


@pytest.mark.parametrize("key", ["observation", "observations", "anything"])
def test_masks_come_along_with_observations(key):
    mask = np.array([0, 1, 0], np.int8)

    class Keyed(games.Masked):
        def sees(self, agent):
            return spaces.Dict({key: BOX, "action_mask": spaces.Box(0, 1, (3,), np.int8)})

        def observe(self, agent):
            return {key: np.zeros(3, np.float32), "action_mask": mask}

    spec, policy = policy_of(Keyed)
    assert spec.has_masks and spec.obs_sizes == (3, 3, 3)
    loaded = LoadedPolicy(policy, seed=0)
    obs, _ = Keyed().reset(seed=0)
    for _ in range(10):
        assert loaded.act(obs, greedy=False)[0] == dict.fromkeys(spec.agents, 6)  # choices are counted from 5
        assert loaded.act(obs["bob"], agents="bob", greedy=False)[0] == 6
    other = {name: np.array([1, 0, 0]) for name in spec.agents}
    assert loaded.act(obs, mask=other)[0] == dict.fromkeys(spec.agents, 5)  # what is given counts
    rows, masks = np.zeros((4, 3, 3), np.float32), np.broadcast_to(mask, (4, 3, 3))
    np.testing.assert_array_equal(loaded.act(rows, mask=masks)[0], 6)
    np.testing.assert_array_equal(loaded.act(rows[:, :2], agents=["cleo", "ann"], mask=masks[:, :2])[0], 6)
    with pytest.raises(ValueError, match=r"mask of bob: .*must be 1 for each choice that is available"):
        loaded.act(obs, mask=other | {"bob": [0.0, -np.inf, 0.0]})


def test_masks_in_infos_are_handed_over_by_name():
    spec, policy = policy_of(games.MaskedInInfos)
    loaded, game = LoadedPolicy(policy, seed=0), games.MaskedInInfos()
    obs, infos = game.reset(seed=0)
    masks = {agent: infos[agent].get("action_mask") for agent in game.agents}
    assert masks["bob"] is None and masks["ann"] is not None
    actions, _ = loaded.act(obs, mask=masks)
    assert set(actions) == set(spec.agents)
    with pytest.raises(ValueError, match=r"mask of \['ann', 'bob', 'cleo'\] is missing"):
        loaded.act(obs)


def test_masks_that_come_after_the_first_reset_are_an_input_where_one_is_asked_for(tmp_path):
    _, policy = policy_of(games.LateMasks)
    loaded, obs = LoadedPolicy(policy), np.random.default_rng(0).standard_normal((5, 2, 2)).astype(np.float32)
    assert AgentNetwork(policy, "bob").inputs() == ["obs"]
    network = AgentNetwork(policy, "bob", masked=True)
    assert network.inputs() == ["obs", "mask"]
    program = torch.export.load(export_program(network, tmp_path / "bob.pt2")).module()
    for mask in ([True, False, False], [False, True, True], [True, True, True]):
        masks = np.broadcast_to(mask, (5, 3))
        found = program(torch.as_tensor(obs), None, torch.as_tensor(masks.copy()))
        wanted, _ = loaded.act(obs, agents="bob", mask=masks)
        assert found.tolist() == wanted.tolist()
    _, continuous = policy_of(games.Continuous)
    with pytest.raises(ValueError, match="this policy's actions are continuous"):
        AgentNetwork(continuous, "bob", masked=True)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_observations_that_are_not_finite_are_refused_with_the_agents_name(value):
    loaded, game = LoadedPolicy(policy_of(games.Game)[1]), games.Game()
    obs, _ = game.reset(seed=0)
    obs["bob"] = np.array([[0.0, value], [0.0, 1.0]], np.float32)
    rows = np.zeros((2, 4, 3, 4), np.float32)
    rows[1, 2, 1, 3] = value
    for call in (
        lambda: loaded.act(obs),
        lambda: loaded.act({"bob": obs["bob"]}),
        lambda: loaded.act(obs["bob"], agents="bob"),
        lambda: loaded.act(rows),
        lambda: loaded.act(rows[:, :, [2, 1]], agents=["cleo", "bob"]),
        lambda: loaded.choose(torch.as_tensor(rows)),
    ):
        with pytest.raises(ValueError, match="the observation of agent 'bob' has a NaN or infinite value"):
            call()
    huge = np.full((3, 4), 3e38, np.float32)  # finite, though their sum is not
    assert loaded.act(huge)[0].shape == (3,)


def test_an_observation_outside_its_space_is_refused_with_the_agents_name():
    loaded = LoadedPolicy(policy_of(game_of(OBSERVATIONS["nested"], ACTIONS["from 1"]))[1])
    with pytest.raises(ValueError, match=r"observation of bob: .*numbers of shape \(3,\) under 'pos', or a row of 8"):
        loaded.act({"bob": {"pos": np.zeros(2), "rest": (1, {"x": [0, 1]})}})
    with pytest.raises(ValueError, match=r"observation of bob: .*a dictionary with"):
        loaded.act({"bob": np.zeros(3)})


def test_many_images_of_one_agent():
    _, policy = policy_of(game_of(OBSERVATIONS["image"], ACTIONS["2 x 2"]))
    loaded, images = LoadedPolicy(policy), np.random.default_rng(0).integers(0, 255, (4, 5, 2, 2, 3)).astype(np.uint8)
    actions, _ = loaded.act(images, agents="cleo")
    assert actions.shape == (4, 5, 2, 2)
    flat, _ = loaded.act(images.reshape(4, 5, 12).astype(np.float32), agents="cleo")
    np.testing.assert_array_equal(actions, flat)
    one, _ = loaded.act(images[2, 3], agents="cleo")
    np.testing.assert_allclose(one, actions[2, 3], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("acts", ["from -1", "float64", "MultiDiscrete"])
def test_onnx_files_take_and_give_what_the_environment_does(tmp_path, acts):
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra [onnx]")
    pytest.importorskip("onnxscript", reason="needs the extra [onnx]")
    game = game_of(OBSERVATIONS["nested"], ACTIONS[acts])()
    _, policy = policy_of(type(game))
    network = AgentNetwork(policy, "bob")
    assert network.inputs() == ["obs.pos", "obs.rest.0", "obs.rest.1.x"]
    session = onnxruntime.InferenceSession(export_onnx(network, tmp_path / "bob.onnx"))
    space, loaded = game.observation_space("bob"), LoadedPolicy(policy)
    for seed in range(5):
        space.seed(seed)
        obs = space.sample()
        given = dict(zip(network.inputs(), (x.numpy() for x in tensors(obs)), strict=True))
        (action,) = session.run(None, given)
        assert game.action_space("bob").contains(action[0])
        np.testing.assert_allclose(action[0], loaded.act({"bob": obs})[0]["bob"], rtol=1e-4, atol=1e-5)
