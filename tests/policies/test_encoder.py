"""Policies with an encoder are written, read where that is allowed, edited and exported."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lorasa_rllib.cli import main
from lorasa_rllib.nn import encoder_classes
from lorasa_rllib.policies.acting import LoadedPolicy, load_policy
from lorasa_rllib.policies.adapters import folded
from lorasa_rllib.policies.exporting import AgentNetwork, export_onnx, export_program
from lorasa_rllib.policies.files import PolicyFileError
from lorasa_rllib.policies.folder import read_policy, save_policy
from lorasa_rllib.policies.merging import merged
from lorasa_rllib.policies.saved import saved, team_policy
from lorasa_rllib.policies.teams import team_of
from tests.encoders import MIXER, PIXELS, Mixer, Pixels, encoding_policy, image_team
from tests.helpers import owner_tables, team

ROWS = team((4, 3, 4), (2, 2, 1))
IMAGES = image_team(3)
CNN = {"encoder_settings": {"channels": [3, 4], "features": 4}}
CASES = [
    pytest.param(ROWS, Mixer, {"obs_norm": "running"}, id="rows"),
    pytest.param(IMAGES, Pixels, {}, id="own-images"),
    pytest.param(IMAGES, "cnn", CNN, id="cnn"),
]
METHODS = ["ps", "lora", "nps", "seps_lora", "mtl", "role"]


def policy_of(method, spec, encoder, recurrent=False, **network):
    owners = owner_tables(spec.num_agents)[method]
    return saved(encoding_policy(spec, owners, encoder, recurrent=recurrent, **network).float())


def observations(spec, rows=5):
    rng = np.random.default_rng(0)
    if spec.views:
        return rng.integers(0, 256, (rows, spec.num_agents, spec.obs_size)).astype(np.float32)
    return rng.standard_normal((rows, spec.num_agents, spec.obs_size)).astype(np.float32) * spec.obs_mask()


def act(policy, obs):
    roles = {"roles": np.zeros(obs.shape[:-1], int)} if policy.config.owners.by_role else {}
    return LoadedPolicy(policy).act(obs, **roles)[0]


@pytest.mark.parametrize(("spec", "encoder", "network"), CASES)
@pytest.mark.parametrize("method", METHODS)
def test_what_is_written_is_read_back(method, spec, encoder, network, tmp_path):
    before = policy_of(method, spec, encoder, **network)
    after = read_policy(save_policy(before, tmp_path / "policy"))
    assert after.config == before.config
    assert set(after.weights) == set(before.weights) and set(after.critic) == set(before.critic)
    assert all(torch.equal(after.weights[name].double(), w.double()) for name, w in before.weights.items())
    np.testing.assert_array_equal(act(after, observations(spec)), act(before, observations(spec)))
    assert team_policy(after).state_dict().keys() == team_policy(before).state_dict().keys()


@pytest.mark.parametrize(("spec", "encoder", "network"), CASES)
@pytest.mark.parametrize("method", METHODS)
def test_merged_policies_and_teams_of_copies_act_alike(method, spec, encoder, network):
    policy, obs = policy_of(method, spec, encoder, **network), observations(spec)
    roles = [0] * spec.num_agents if policy.config.owners.by_role else None
    np.testing.assert_allclose(act(merged(policy, roles), obs), act(policy, obs), rtol=1e-4, atol=1e-5)
    names = spec.agents
    team = team_of(policy, {"a": names[2], "b": names[0], "c": names[1], "d": names[0]})
    np.testing.assert_allclose(act(team, obs[:, [2, 0, 1, 0]]), act(policy, obs)[:, [2, 0, 1, 0]], rtol=1e-4, atol=1e-5)
    if method == "lora":
        np.testing.assert_allclose(act(folded(policy, 20)[0], obs), act(policy, obs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("recurrent", [False, True], ids=["feed-forward", "recurrent"])
@pytest.mark.parametrize(("spec", "encoder", "network"), CASES)
@pytest.mark.parametrize("method", ["lora", "nps"])
def test_an_agents_network_acts_as_the_agent(method, spec, encoder, network, recurrent):
    policy, obs = policy_of(method, spec, encoder, recurrent=recurrent, **network), observations(spec)
    expected = act(policy, obs)
    for n, agent in enumerate(spec.agents):
        exported = AgentNetwork(policy, agent)
        own = torch.as_tensor(obs[:, n, : spec.obs_sizes[n]])
        found = exported(own.reshape(5, *spec.obs_shape).to(torch.uint8) if spec.views else own)
        action = found[0] if recurrent else found
        np.testing.assert_allclose(action, spec.action_of(n, expected[:, n]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("spec", "encoder", "network"), [CASES[0], CASES[2]])
def test_exported_files_act_as_the_network(spec, encoder, network, tmp_path):
    pytest.importorskip("onnxscript", reason="needs the extra [onnx]")
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra [onnx]")
    exported = AgentNetwork(policy_of("lora", spec, encoder, **network), "agent_1")
    program = torch.export.load(export_program(exported, tmp_path / "agent.pt2")).module()
    session = onnxruntime.InferenceSession(export_onnx(exported, tmp_path / "agent.onnx"))
    for rows in (1, 7):
        (given,) = exported.example(rows, torch.Generator().manual_seed(1))
        torch.testing.assert_close(program(given), exported(given))
        (found,) = session.run(None, {"obs": given.numpy()})
        np.testing.assert_allclose(found, exported(given), rtol=1e-4, atol=1e-5)


def test_images_are_given_as_the_environment_gives_them():
    policy = LoadedPolicy(policy_of("lora", IMAGES, "cnn", **CNN))
    images = np.random.default_rng(0).integers(0, 256, (3, *IMAGES.obs_shape), np.uint8)
    by_name, _ = policy.act(dict(zip(IMAGES.agents, images, strict=True)))
    rows, _ = policy.act(images.reshape(3, -1).astype(np.float32))
    assert list(by_name.values()) == rows.tolist()
    assert policy.act(images[1], agents="agent_1")[0] == rows[1]


def test_an_encoder_that_a_file_names_is_imported_only_on_trust(tmp_path, monkeypatch):
    folder = save_policy(policy_of("lora", ROWS, Mixer), tmp_path / "policy")
    load_policy(folder)  # given in this process
    monkeypatch.setattr(encoder_classes, "_given", {})
    with pytest.raises(PolicyFileError, match=f"names the encoder '{MIXER}'.*trust=True"):
        load_policy(folder)
    obs = observations(ROWS)
    actions, _ = load_policy(folder, trust=True).act(obs)
    np.testing.assert_allclose(actions, LoadedPolicy(read_policy(folder)).act(obs)[0])
    config = folder / "policy_config.json"
    config.write_text(config.read_text().replace(MIXER, "no.such.module:Class"))
    with pytest.raises(PolicyFileError, match=r"cannot be imported .*on every machine"):
        load_policy(folder, trust=True)
    config.write_text(config.read_text().replace("no.such.module:Class", "json:loads"))
    with pytest.raises(PolicyFileError, match=r"must be a subclass of torch\.nn\.Module"):
        load_policy(folder, trust=True)


def test_the_command_line_needs_trust_too(tmp_path, monkeypatch, capsys):
    save_policy(policy_of("lora", IMAGES, Pixels), tmp_path / "policy")
    arguments = ["adapters", "list", str(tmp_path / "policy")]
    monkeypatch.setattr(encoder_classes, "_given", {})
    assert main(arguments) != 0 and PIXELS in capsys.readouterr().err
    assert main([*arguments, "--trust"]) == 0 and "agent_2" in capsys.readouterr().out


def test_files_with_more_channels_than_they_hold_are_refused(tmp_path):
    folder = save_policy(policy_of("ps", IMAGES, "cnn", **CNN), tmp_path / "policy")
    config = folder / "policy_config.json"
    config.write_text(config.read_text().replace('"features": 4', '"features": 4000'))
    with pytest.raises(PolicyFileError, match="belongs to another policy"):
        load_policy(folder)
    config.write_text(config.read_text().replace('"features": 4000', '"features": 4000000000'))
    with pytest.raises(PolicyFileError):
        load_policy(folder)
