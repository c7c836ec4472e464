"""Every sharing method through both algorithms, and the groups that SePS finds."""

from __future__ import annotations

import shutil

import pytest
import torch

from lorasa_rllib import A2PO, MAPPO
from lorasa_rllib.sharing.methods import METHODS

CLASSES = {"MAPPO": MAPPO, "A2PO": A2PO}
TEAM = {"num_agents": 4, "unequal": True, "episode_length": 9, "termination": 0.05}


def answers(algo) -> torch.Tensor:
    """What the policy of the env runner does, greedily, with three steps of its own observations."""
    policy = algo.env_runner.policy
    generator = torch.Generator().manual_seed(0)
    spec, actor = policy.config.spec, policy.acting()
    hidden, seen = None, []
    for _ in range(3):
        obs = torch.randn(2, spec.num_agents, spec.obs_size, generator=generator)
        obs = obs * torch.as_tensor(spec.obs_mask())
        with torch.no_grad():
            distribution, hidden = actor.step(obs, hidden=hidden)
        seen.append(distribution.mode())
    return torch.stack(seen)


@pytest.mark.parametrize("network", [{}, {"recurrent": True}], ids=["feed-forward", "recurrent"])
@pytest.mark.parametrize("algorithm", ["MAPPO", "A2PO"])
@pytest.mark.parametrize("method", METHODS)
def test_it_trains_and_a_restored_one_acts_alike(small_config, build, tmp_path, method, algorithm, network):
    config = small_config("synthetic", TEAM, algorithm, phase_switch=0).sharing(method)
    config.network(**network).training(chunk_length=4)
    algo = build(config)
    assert torch.isfinite(torch.tensor(algo.train()["learners"]["shared_policy"]["policy_loss"]))
    algo.save_to_path(str(tmp_path / "checkpoint"))
    again = CLASSES[algorithm].from_checkpoint(str(tmp_path / "checkpoint"))
    try:
        owners = algo.env_runner.policy.config.owners
        assert again.env_runner.policy.config.owners == owners and owners.method == method
        torch.testing.assert_close(answers(again), answers(algo), rtol=0, atol=0)
        assert len(set(map(tuple, answers(algo)[0, 0, :, :1].tolist()))) > 1  # agents differ, by id at least
    finally:
        again.stop()


CHEETAH = {"scenario": "HalfCheetah", "agent_conf": "6x1"}


@pytest.mark.parametrize("runners", [0, 1])
def test_groups_are_found_once_and_kept_in_checkpoints(small_config, build, tmp_path, runners):
    config = small_config("mamujoco", CHEETAH).sharing("seps_lora", phase_switch=64)
    config.env_runners(num_env_runners=runners)
    algo = build(config.copy(copy_frozen=False))
    found = algo.config.groups
    assert found == algo.get_module("shared_policy").policy.config.owners.backbone_of
    assert 1 < len(set(found)) < 6 and config.groups is None
    assert found[0] == found[3] and found[2] == found[5]  # thighs share, and so do feet
    assert [algo.train()["phase"] for _ in range(2)] == ["backbone", "adapters"]
    algo.save_to_path(str(tmp_path / "checkpoint"))
    again = MAPPO.from_checkpoint(str(tmp_path / "checkpoint"))
    assert again.config.groups == found
    assert again.train()["phase"] == "adapters"
    again.stop()


def test_a_checkpoint_of_other_groups_is_refused(small_config, build, tmp_path):
    groups = {"agent_0": 0, "agent_1": 1, "agent_2": 1, "agent_3": 0}
    build(small_config("synthetic", TEAM).sharing("seps", groups=groups)).save_to_path(str(tmp_path / "checkpoint"))
    other = build(small_config("synthetic", TEAM).sharing("seps", groups=(0, 1, 0, 1)))
    with pytest.raises(ValueError, match=r"groups=\[0, 1, 1, 0\]"):
        other.restore_from_path(str(tmp_path / "checkpoint"))


@pytest.mark.parametrize(
    ("setter", "settings"),
    [
        ("network", {"activation": "tanh"}),
        ("network", {"obs_clip": 10.0}),
        ("network", {"distribution": "squashed_gaussian"}),
        ("sharing", {"lora_alpha": 2.0}),
        ("sharing", {"use_rslora": True}),
    ],
)
def test_weights_that_would_mean_something_else_are_refused(small_config, build, tmp_path, setter, settings):
    """They have the right shapes, so nothing else would tell."""

    def config():
        return small_config("synthetic", TEAM).sharing("lora", phase_switch=0)

    path, (name,) = str(tmp_path / "checkpoint"), settings
    algo = build(config())
    assert algo.train()["phase"] == "adapters"
    algo.save_to_path(path)
    other = build(getattr(config(), setter)(**settings))
    with pytest.raises(ValueError, match=rf"with {name}=.*\.{setter}\({name}="):
        other.restore_from_path(path)
    begun = getattr(config().sharing(backbone=path), setter)(**settings)
    if setter == "sharing":  # adapters are not part of a backbone
        assert build(begun).train()["phase"] == "adapters"
        return
    with pytest.raises(ValueError, match=rf"with {name}=.*\.network\({name}="):
        build(begun)


def test_before_the_switch_the_scale_of_adapters_may_still_change(small_config, build, tmp_path):
    path = str(tmp_path / "checkpoint")
    build(small_config("synthetic", TEAM).sharing("lora", phase_switch=100)).save_to_path(path)
    other = build(small_config("synthetic", TEAM).sharing("lora", phase_switch=100, lora_alpha=2.0))
    other.restore_from_path(path)
    assert other.train()["phase"] == "backbone"


def test_a_run_that_goes_on_from_another_keeps_its_groups_and_its_checkpoint_stands_alone(
    small_config, build, tmp_path
):
    """The groups are none that a search would find; the run begun from may be gone later."""
    begun, groups = str(tmp_path / "begun"), (0, 1, 1, 0)
    build(small_config("synthetic", TEAM).sharing("seps", groups=groups)).save_to_path(begun)
    for start in ({"backbone": begun}, {"fork_from": begun}):
        algo = build(small_config("synthetic", TEAM).sharing("seps", **start))
        assert algo.config.groups == groups
        algo.save_to_path(str(tmp_path / "later"))
    shutil.rmtree(begun)
    again = MAPPO.from_checkpoint(str(tmp_path / "later"))
    try:
        torch.testing.assert_close(answers(again), answers(algo), rtol=0, atol=0)
    finally:
        again.stop()


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        ("ps", {"adapter_key": "role"}, "does not know adapter_key='role'"),
        ("nps", {"num_adapters": 3}, "does not know num_adapters=3"),
        ("lora", {"groups": (0, 1, 0)}, r"does not know groups=\(0, 1, 0\) \(methods \['seps', 'seps_lora'\]\)"),
        ("seps", {"groups": (0, 1)}, "a group .* for each of the 3 agents"),
        ("seps", {"groups": {"agent_0": 0}}, "each of"),
        ("seps_lora", {"adapter_key": "role", "groups": (0, 0, 0)}, "a backbone for every group"),
        ("nonsense", {}, "sharing method 'nonsense' is unknown"),
    ],
)
def test_settings_of_another_method_are_refused(small_config, method, settings, message):
    with pytest.raises(ValueError, match=message):
        small_config().sharing(method, **settings).validate()
