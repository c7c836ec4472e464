"""Checkpoints become files of policies, and both are where other runs begin."""

from __future__ import annotations

import importlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from ray.rllib.core import COMPONENT_RL_MODULE

from lorasa_rllib import MAPPO
from lorasa_rllib.analysis.observations import bank_of
from lorasa_rllib.envs.synthetic import SyntheticTeam
from lorasa_rllib.policies.acting import LoadedPolicy, load_policy
from lorasa_rllib.policies.adapters import updates_of
from lorasa_rllib.policies.folder import read_policy, save_adapter, save_policy
from lorasa_rllib.policies.teams import team_of
from lorasa_rllib.rllib.checkpoints import env_steps_of, read_checkpoint, read_trained
from lorasa_rllib.rllib.initial_weights import backbone_weights
from lorasa_rllib.rllib.module import MODULE_ID
from lorasa_rllib.rllib.runner import TeamEnvRunner
from lorasa_rllib.studies.trained import play
from tests.rllib.test_phases_and_restore import is_adapter, is_backbone, weights_of

SAME_SIZES = {"num_agents": 3, "episode_length": 9}


def trained(build, config, iterations=3):
    algo = build(config)
    for _ in range(iterations):
        algo.train()
    return algo


@pytest.mark.parametrize("learners", [0, 1])
def test_a_checkpoint_and_the_algorithm_give_the_same_files(small_config, build, tmp_path, learners):
    algo = trained(build, small_config().learners(num_learners=learners))
    algo.save_to_path(tmp_path / "checkpoint")
    one = read_policy(algo.save_policy(tmp_path / "policy"))
    other = read_checkpoint(tmp_path / "checkpoint")
    assert one.config == other.config and one.phase == other.phase == "adapters" and one.origin == other.origin
    assert one.origin.env_steps == env_steps_of(tmp_path / "checkpoint") == 192
    assert (one.origin.environment, one.origin.algorithm) == ("synthetic", "MAPPO")
    weights = weights_of(algo)
    for found in (one, other):
        for name, value in {**{f"actor.{n}": w for n, w in found.weights.items()}, **found.critic}.items():
            np.testing.assert_array_equal(value.numpy(), weights[f"policy.{name}"], err_msg=name)
    with pytest.raises(ValueError, match="exists already"):
        algo.save_policy(tmp_path / "policy")


@pytest.mark.parametrize("algorithm", ["MAPPO", "A2PO"])
def test_files_act_as_the_env_runners_do(small_config, build, tmp_path, algorithm):
    algo = trained(
        build, small_config(algorithm=algorithm).network("published", hidden_size=8).training(chunk_length=8)
    )
    policy = load_policy(algo.save_policy(tmp_path / "policy"))
    runner = algo.env_runner
    obs = torch.randn(5, 3, policy.spec.obs_size) * torch.as_tensor(policy.spec.obs_mask())
    state = torch.randn(5, 3, 8)
    distribution, after = runner.policy.acting().step(obs, hidden=state)
    actions, found = policy.act(obs.numpy(), state.numpy())
    np.testing.assert_allclose(actions, policy.spec.to_environment(distribution.mode().numpy()), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found, after.numpy(), rtol=1e-5, atol=1e-6)


def test_phase_two_starts_from_files_as_from_the_checkpoint(small_config, build, tmp_path):
    first = trained(build, small_config(), 1)
    files = first.save_policy(tmp_path / "policy")
    second = build(small_config(phase_switch=0, backbone=str(files), r=3))
    backbone = weights_of(first)
    for name, value in weights_of(second).items():
        if not is_adapter(name) and not name.endswith("_phase"):
            np.testing.assert_array_equal(value, backbone[name], err_msg=name)


def test_adapters_go_on_in_another_run_whole_and_one_by_one(small_config, build, tmp_path):
    first = trained(build, small_config(env_config=SAME_SIZES), 4)
    files = first.save_policy(tmp_path / "policy")
    saved = read_policy(files)
    config = small_config(env_config=SAME_SIZES, phase_switch=0, backbone=str(files), adapters=str(files))
    again = build(config)
    for name, value in weights_of(again).items():
        if is_backbone(name) or is_adapter(name):
            np.testing.assert_array_equal(value, weights_of(first)[name], err_msg=name)
    one = save_adapter(saved, "agent_2", tmp_path / "one")
    config = small_config(env_config=SAME_SIZES, phase_switch=0, backbone=str(files), adapters={"agent_0": str(one)})
    algo = build(config)
    moved = read_policy(algo.save_policy(tmp_path / "moved"))
    for name, update in updates_of(moved).items():
        torch.testing.assert_close(update[0], updates_of(saved)[name][2])
        assert update[1:].abs().max() == 0 < update[0].abs().max()
    assert algo.train()["phase"] == "adapters"
    runner = algo.env_runner.policy
    torch.testing.assert_close(runner.state_dict()["actor.mlp.0.weight"], saved.weights["mlp.0.weight"])


def test_a_larger_team_starts_from_a_smaller_ones_files(small_config, build, tmp_path):
    saved = read_policy(trained(build, small_config(env_config=SAME_SIZES), 4).save_policy(tmp_path / "policy"))
    larger = team_of(saved, {**{a: a for a in saved.config.spec.agents}, "agent_3": "agent_1"})
    files = save_policy(larger, tmp_path / "larger")
    bigger_team = SAME_SIZES | {"num_agents": 4}
    algo = build(small_config(env_config=bigger_team, phase_switch=0, backbone=str(files), adapters=str(files)))
    obs = np.random.default_rng(0).standard_normal((4, larger.config.spec.obs_size)).astype(np.float32)
    found, _ = LoadedPolicy(read_policy(algo.save_policy(tmp_path / "found"))).act(obs)
    expected, _ = LoadedPolicy(larger).act(obs)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    algo.train()


def test_more_ids_are_filled_up_with_the_mean_id(small_config, build, tmp_path):
    saved = read_policy(trained(build, small_config(env_config=SAME_SIZES), 2).save_policy(tmp_path / "policy"))
    files = save_policy(replace(saved, critic=None), tmp_path / "actor")
    config = small_config(env_config=SAME_SIZES | {"num_agents": 5}, phase_switch=0, backbone=str(files))
    weight, old = backbone_weights(files, config.plan().policy)["actor.mlp.0.weight"], saved.weights["mlp.0.weight"]
    torch.testing.assert_close(weight[..., : old.shape[-1]], old, rtol=0, atol=0)
    for extra in weight[..., old.shape[-1] :].unbind(-1):
        torch.testing.assert_close(extra, old[..., -3:].mean(-1))
    build(config).train()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backbone": "absent"}, "backbone='absent': absent is neither a policy's files nor a checkpoint"),
        ({"adapters": "absent"}, "adapters='absent': .* it does not exist"),
        ({"adapters": {"nobody": "absent"}}, "no adapter 'nobody'"),
        ({"adapters": {"agent_0": "absent"}}, "adapter_config.json cannot be read"),
    ],
)
def test_what_cannot_be_started_from_is_named(small_config, build, settings, message):
    with pytest.raises(ValueError, match=message):
        build(small_config(phase_switch=0, **settings))


def test_a_backbone_that_reads_other_observations_is_refused(small_config, build, tmp_path):
    """Without feature norm the ids' columns would make up for the missing features."""
    files = build(small_config(env_config=SAME_SIZES).network(obs_norm=None)).save_policy(tmp_path / "policy")
    wider = SAME_SIZES | {"obs_size": 5}
    with pytest.raises(ValueError, match="reads observations of 4 features, agents here have 5"):
        build(small_config(env_config=wider, phase_switch=0, backbone=str(files)).network(obs_norm=None))


def test_files_of_another_network_are_refused(small_config, build, tmp_path):
    files = build(small_config()).save_policy(tmp_path / "policy")
    with pytest.raises(ValueError, match="these weights belong to another policy"):
        build(small_config(backbone=str(files)).network(hidden_size=8))


def test_paths_that_mean_no_checkpoint_say_what_is_there(small_config, build, tmp_path):
    algo = trained(build, small_config(), 1)
    algo.save_to_path(tmp_path / "experiment/trial/checkpoint_000000")
    algo.save_policy(tmp_path / "policy")
    for given, message in {
        "absent": "it does not exist",
        "policy": "holds a policy's files. load_policy acts with them",
        "experiment": r"it holds trials. Give one of \['trial'\]",
    }.items():
        for read in (MAPPO.from_checkpoint, algo.restore_from_path):
            with pytest.raises(ValueError, match=message):
                read(tmp_path / given)
        if given != "policy":
            with pytest.raises(ValueError, match=message):
                read_trained(tmp_path / given)


def test_trials_mean_their_last_checkpoint(small_config, build, tmp_path):
    algo = trained(build, small_config(), 1)
    for k in range(2):
        algo.save_to_path(tmp_path / f"trial/checkpoint_00000{k}")
        algo.train()
    assert read_trained(tmp_path / "trial").origin.env_steps == 128
    again = MAPPO.from_checkpoint(tmp_path / "trial")
    again.stop()
    assert again.iteration == 2


def test_what_is_analysed_is_what_the_trained_policy_sees(small_config, build, tmp_path):
    cheetah = {"scenario": "HalfCheetah", "agent_conf": "2x3", "max_episode_steps": 30}  # its answers depend on actions
    algo = trained(build, small_config("mamujoco", cheetah), 4)
    algo.save_to_path(tmp_path / "checkpoint")
    mine = algo.config.copy(copy_frozen=False).env_runners(num_envs_per_env_runner=2).debugging(seed=5)
    runner = TeamEnvRunner(config=mine, worker_index=0)
    state = algo.learner_group.get_state(components="learner/rl_module", inference_only=True)["learner"]
    runner.set_state({COMPONENT_RL_MODULE: state["rl_module"]})
    assert runner.policy.phase == "adapters" and MODULE_ID in state["rl_module"]
    (sampled,) = runner.sample(num_timesteps=80)
    (rollout,) = sampled.shards
    ended = rollout.terminated | rollout.truncated
    keep = np.concatenate([np.zeros_like(ended[:1]), ~ended[:-1]])
    expected = bank_of(rollout.obs, keep, rollout.masks, rollout.active)
    found = play(tmp_path / "checkpoint", 2, 80, seed=5)
    np.testing.assert_array_equal(found.obs, expected.obs)
    runner.stop()


WITHOUT_RAY = """
import sys
import numpy as np
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("ray", "gymnasium"):
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
from lorasa_rllib import load_policy
given, policy, state, seen = np.load(sys.argv[2]), load_policy(sys.argv[1]), None, []
for t, obs in enumerate(given["obs"]):
    roles = given["roles"][t] if policy.by_role else None
    actions, state = policy.act(obs, state, roles=roles, mask=given["masks"][t] if policy.spec.has_masks else None)
    seen.append(actions)
np.save(sys.argv[3], seen)
"""


@pytest.mark.parametrize("network", [{}, {"recurrent": True}], ids=["feed-forward", "recurrent"])
@pytest.mark.parametrize(("discrete", "key"), [(False, "agent"), (True, "agent"), (True, "role"), (False, "role")])
def test_what_was_trained_acts_alike_in_a_process_without_ray(small_config, build, tmp_path, discrete, key, network):
    """A thousand observations: 20 steps of 50 environments."""
    team = {**SAME_SIZES, "discrete": discrete, "num_roles": 3}
    config = small_config("synthetic", team, adapter_key=key).network(**network).training(chunk_length=8)
    algo = trained(build, config)
    spec, actor = algo.config.team_spec(), algo.env_runner.policy.acting()
    random = np.random.default_rng(0)
    obs = random.standard_normal((20, 50, 3, spec.obs_size)).astype(np.float32)
    roles, masks = random.integers(-1, 3, (20, 50, 3)), random.random((20, 50, 3, spec.action_size)) < 0.7
    masks[..., 0] = True
    np.savez(tmp_path / "given.npz", obs=obs, roles=roles, masks=masks)
    files = [str(tmp_path / name) for name in ("policy", "given.npz", "seen.npy")]
    algo.save_policy(files[0])
    done = subprocess.run([sys.executable, "-c", WITHOUT_RAY, *files], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    hidden, expected = None, []
    for t in range(20):
        rows = {"roles": torch.as_tensor(roles[t])} if key == "role" else {}
        rows |= {"available": torch.as_tensor(masks[t])} if discrete else {}
        with torch.no_grad():
            distribution, hidden = actor.step(torch.as_tensor(obs[t]), hidden=hidden, **rows)
        expected.append(spec.to_environment(distribution.mode().numpy()))
    np.testing.assert_allclose(np.load(files[2]), expected, rtol=1e-4, atol=1e-5)


def test_a_checkpoint_is_saved_to_and_restored_from_a_relative_path(small_config, build, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    algo = build(small_config())
    assert Path(algo.save_to_path("here/checkpoint")) == tmp_path / "here/checkpoint"
    algo.restore_from_path("here/checkpoint")
    restored = MAPPO.from_checkpoint("here/checkpoint")
    restored.stop()


def test_a_checkpoint_whose_environment_is_gone_says_so_and_opens_with_another_config(
    small_config, build, tmp_path, monkeypatch
):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "own_team.py").write_text(
        "from lorasa_rllib.envs.synthetic import SyntheticTeam\nclass Own(SyntheticTeam): ..."
    )
    own = importlib.import_module("own_team").Own
    path = build(small_config(own)).save_to_path(str(tmp_path / "checkpoint"))
    (tmp_path / "own_team.py").write_text("")
    importlib.reload(importlib.import_module("own_team")).__dict__.pop("Own")
    with pytest.raises(ValueError, match=r"needs code that Python does not find here.*'Own'"):
        MAPPO.from_checkpoint(path)
    restored = MAPPO.from_checkpoint(path, config=small_config("synthetic"))
    restored.stop()


class Licensed(SyntheticTeam):
    """Needs a key that this machine lacks when a checkpoint is opened."""

    keys: ClassVar = {"team": "valid"}

    def __init__(self, num_envs, **settings):
        self.key = self.keys["team"]
        super().__init__(num_envs, **settings)


def test_what_an_environment_raises_is_not_taken_for_a_damaged_checkpoint(small_config, build, tmp_path, monkeypatch):
    path = build(small_config(Licensed)).save_to_path(str(tmp_path))
    monkeypatch.setattr(Licensed, "keys", {})
    with pytest.raises(KeyError, match="team"):
        MAPPO.from_checkpoint(path)


@pytest.mark.parametrize("method", ["compute_single_action", "compute_actions", "get_policy"])
def test_older_ways_to_act_point_to_load_policy(small_config, build, method):
    algo = build(small_config())
    with pytest.raises(NotImplementedError, match="load_policy"):
        getattr(algo, method)(np.zeros(4))
    for obs in (torch.zeros(1, 4), {"obs": torch.zeros(1, 4)}):
        with pytest.raises(ValueError, match="load_policy"):
            algo.get_module(MODULE_ID).forward_inference({"obs": obs})


def test_a_checkpoint_may_be_restored_when_the_algorithm_has_just_been_built(small_config, build, tmp_path):
    algo = build(small_config())
    algo.train()
    path = algo.save_to_path(tmp_path / "checkpoint")
    again = build(
        small_config().callbacks(on_algorithm_init=lambda *, algorithm, **_: algorithm.restore_from_path(path))
    )
    for name, value in algo.get_weights()["shared_policy"].items():
        np.testing.assert_array_equal(value, again.get_weights()["shared_policy"][name])
    assert again.train()["training_iteration"] == 2
