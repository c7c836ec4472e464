"""The switch from backbone to adapters, and checkpoints on either side of it."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from pyarrow.fs import LocalFileSystem, SubTreeFileSystem

from lorasa_rllib import A2PO, MAPPO
from lorasa_rllib.nn.bank import ADAPTER_PARAMETERS
from lorasa_rllib.rllib.module import MODULE_ID
from lorasa_rllib.rllib.runner import TeamEnvRunner
from lorasa_rllib.rllib.sampled import TeamTrainingData

BOTH = pytest.mark.parametrize("algorithm", ["MAPPO", "A2PO"])


def weights_of(algo) -> dict[str, np.ndarray]:
    state = algo.learner_group.get_state(components="learner/rl_module")["learner"]["rl_module"][MODULE_ID]
    return {name: np.array(value) for name, value in state.items()}


def is_adapter(name: str) -> bool:
    return name.rpartition(".")[2] in ADAPTER_PARAMETERS


def is_backbone(name: str) -> bool:
    return "actor" in name and not is_adapter(name)


@BOTH
def test_the_switch_freezes_the_backbone_bit_for_bit_on_learner_and_runners(small_config, build, algorithm):
    config = small_config(algorithm=algorithm).network(obs_norm="running")
    algo = build(config.env_runners(num_env_runners=2, num_envs_per_env_runner=2))
    for _ in range(2):
        assert algo.train()["phase"] == "backbone"
    before = weights_of(algo)
    steps = algo.learner_group._learner.optimisers()["critic"].state_dict()["state"][0]["step"].clone()
    for _ in range(3):
        assert algo.train()["phase"] == "adapters"
    after = weights_of(algo)
    on_runners = algo.env_runner_group.foreach_env_runner(lambda r: r.module[MODULE_ID].get_state())
    for name, old in before.items():
        if is_backbone(name):
            np.testing.assert_array_equal(after[name], old, err_msg=name)
            for runner in on_runners:
                np.testing.assert_array_equal(runner[name], old, err_msg=name)
        elif is_adapter(name):  # every owner of it
            moved = np.abs(after[name] - old).reshape(len(old), -1).max(1)
            if not name.endswith("lora_B") or moved.any():
                assert (moved > 0).all(), name
        elif "critic" in name:
            assert np.abs(after[name] - old).max() > 0, name
    assert any(is_adapter(n) and "lora_A" in n for n in before) and any("log_std" in n for n in before)
    assert before["policy.actor.obs_norm.count"].any()
    learner = algo.learner_group._learner
    optimisers = learner.optimisers()
    # 3 iterations x 2 epochs, not restarted; A2PO: for each of 3 agents, and the critic twice
    agents = 3 if algorithm == "A2PO" else 1
    assert optimisers["critic"].state_dict()["state"][0]["step"] == steps + 6 * agents * (2 if agents > 1 else 1)
    assert optimisers["backbone"].state_dict()["state"][0]["step"].item() == 4 * agents
    assert (optimisers["adapters"].state_dict()["state"][0]["step"] == 6).all()
    np.testing.assert_allclose(after["policy.value_norm.debias"], 1 - 0.99999**5, rtol=1e-3)


def recorded_rollouts(config, count):
    runner = TeamEnvRunner(config=config, worker_index=0)
    return [TeamTrainingData(shards=[runner.sample()[0].shards]) for _ in range(count)]


PHASES_OF_UPDATES = {
    "backbone": ["backbone"] * 4,
    "adapters": ["adapters"] * 4,
    "joint": ["joint"] * 4,
    "across the switch": ["backbone", "backbone", "adapters", "adapters"],
}


@pytest.mark.parametrize(
    ("algorithm", "minibatch_size"), [("MAPPO", None), ("MAPPO", 20), ("A2PO", None), ("A2PO", 20)]
)
@pytest.mark.parametrize("case", PHASES_OF_UPDATES)
def test_a_restored_learner_makes_the_updates_it_would_have_made(
    small_config, tmp_path, case, algorithm, minibatch_size
):
    config = (
        small_config(algorithm=algorithm)
        .network(obs_norm="running")
        .training(minibatch_size=minibatch_size, entropy_coeff=[[0, 0.1], [1000, 0.0]])
        .training(lr="linear", recompute_advantages=True)
    )
    rollouts, phases = recorded_rollouts(config, 4), PHASES_OF_UPDATES[case]

    def learn(learner, which):
        for index in which:
            learner.update(
                training_data=copy.deepcopy(rollouts[index]),
                timesteps={"num_env_steps_sampled_lifetime": 64 * (index + 1)},
                phase=phases[index],
            )

    original = config.build_learner(spaces=config.spaces())
    learn(original, [0, 1])
    original.save_to_path(tmp_path / "learner")
    learn(original, [2, 3])
    restored = config.build_learner(spaces=config.spaces())
    restored.restore_from_path(tmp_path / "learner")
    learn(restored, [2, 3])
    for name, value in original.policy.state_dict().items():
        torch.testing.assert_close(restored.policy.state_dict()[name], value, rtol=0, atol=0, msg=name)


@pytest.mark.parametrize("runners", [0, 2])
def test_an_older_checkpoint_reaches_all_runners_of_a_running_algorithm(small_config, build, tmp_path, runners):
    algo = build(small_config().env_runners(num_env_runners=runners, num_envs_per_env_runner=2))
    algo.train()
    saved = weights_of(algo)
    algo.save_to_path(tmp_path / "old")
    for _ in range(3):
        algo.train()
    assert algo._phase == "adapters"
    algo.restore_from_path(tmp_path / "old")
    assert algo._phase == "backbone"
    for held in algo.env_runner_group.foreach_env_runner(
        lambda r: r.module[MODULE_ID].get_state(), local_env_runner=not runners
    ):
        for name, value in held.items():
            np.testing.assert_array_equal(value, saved[name], err_msg=name)


@pytest.mark.parametrize("runners", [0, 1])
def test_weights_with_the_same_number_of_updates_are_acted_with(small_config, build, tmp_path, runners):
    """Numbers count updates: two runs of one length share them."""
    config = small_config().env_runners(num_env_runners=runners, num_envs_per_env_runner=2)
    config.evaluation(evaluation_num_env_runners=runners)
    algo, other = build(config.copy(copy_frozen=False)), build(config.debugging(seed=7))
    for one in (algo, other):
        for _ in range(3):
            one.train()
        one.evaluate()
    weights, phase = weights_of(other), other._phase

    def check():
        for group in (algo.env_runner_group, algo.eval_env_runner_group):
            if group is None:
                continue
            for held in group.foreach_env_runner(acts_with, local_env_runner=not runners):
                np.testing.assert_array_equal(held, expected)
        np.testing.assert_array_equal(
            weights_of(algo)["policy.critic.head.weight"], weights["policy.critic.head.weight"]
        )
        assert algo._phase == phase

    (expected, *_) = other.env_runner_group.foreach_env_runner(acts_with, local_env_runner=not runners)
    other.save_to_path(tmp_path / "other")
    algo.restore_from_path(tmp_path / "other")
    check()
    algo.train()
    algo.set_state(other.get_state())
    check()
    algo.train()
    algo.set_weights({MODULE_ID: weights})
    check()
    algo.train()


def acts_with(runner: TeamEnvRunner) -> np.ndarray:
    obs = torch.ones(1, runner.plan.spec.num_agents, runner.plan.spec.obs_size)
    acting, _ = runner._acting()
    with torch.no_grad():
        return acting.step(obs)[0].mean.numpy()


def test_a_part_of_a_checkpoint_is_restored_alone(small_config, build, tmp_path):
    first = build(small_config())
    for _ in range(3):
        first.train()
    first.save_to_path(tmp_path / "first")
    second = build(small_config().debugging(seed=7))
    for part in ("learner_group", "learner_group/learner", "learner_group/learner/rl_module"):
        second.train()
        second.restore_from_path(tmp_path / "first" / part, component=part)
        for name, value in weights_of(first).items():
            np.testing.assert_array_equal(weights_of(second)[name], value, err_msg=f"{part} {name}")
        assert second._phase == "adapters" and second.training_iteration < 3 + 1


def test_checkpoints_of_other_file_systems_are_restored(small_config, build, tmp_path):
    algo = build(small_config())
    for _ in range(3):
        algo.train()
    algo.save_to_path(tmp_path / "checkpoint")
    elsewhere = SubTreeFileSystem(str(tmp_path), LocalFileSystem())
    for given in ({"path": (tmp_path / "checkpoint").as_uri()}, {"path": "checkpoint", "filesystem": elsewhere}):
        again = MAPPO.from_checkpoint(**given)
        try:
            np.testing.assert_array_equal(acts_with(again.env_runner), acts_with(algo.env_runner))
            again.train()
            again.restore_from_path(**given)
            np.testing.assert_array_equal(acts_with(again.env_runner), acts_with(algo.env_runner))
        finally:
            again.stop()
    forked = build(small_config(fork_from=(tmp_path / "checkpoint").as_uri()))
    np.testing.assert_array_equal(acts_with(forked.env_runner), acts_with(algo.env_runner))
    with pytest.raises(ValueError, match="absent"):
        algo.restore_from_path("absent", filesystem=elsewhere)


def test_adapters_of_other_agents_are_refused(small_config, build, tmp_path):
    build(small_config(adapter_key=(0, 0, 1))).save_to_path(tmp_path / "checkpoint")
    other = build(small_config(adapter_key=(1, 0, 0)))
    with pytest.raises(ValueError, match=r"adapters of agents \[0, 0, 1\] .* this algorithm \[1, 0, 0\]"):
        other.restore_from_path(tmp_path / "checkpoint")


@BOTH
def test_from_checkpoint_continues_counters_phase_and_weights(small_config, build, tmp_path, algorithm):
    algo = build(small_config(algorithm=algorithm))
    for _ in range(3):
        result = algo.train()
    algo.save_to_path(tmp_path / "checkpoint")
    again = {"MAPPO": MAPPO, "A2PO": A2PO}[algorithm].from_checkpoint(tmp_path / "checkpoint")
    try:
        for name, value in weights_of(algo).items():
            np.testing.assert_array_equal(weights_of(again)[name], value, err_msg=name)
        next_result = again.train()
        assert next_result["phase"] == result["phase"] == "adapters"
        assert next_result["num_env_steps_sampled_lifetime"] == 64 * 4
        assert next_result["training_iteration"] == 4
        assert next_result["env_runners"]["num_episodes_lifetime"] > result["env_runners"]["num_episodes_lifetime"]
    finally:
        again.stop()


def test_phase_two_starts_from_the_backbone_of_another_run(small_config, build, tmp_path):
    first = build(small_config())
    first.train()
    first.save_to_path(tmp_path / "first")
    backbone = weights_of(first)
    second = build(small_config(phase_switch=0, backbone=str(tmp_path / "first"), r=3))
    for name, value in weights_of(second).items():
        if not is_adapter(name) and not name.endswith("_phase"):
            np.testing.assert_array_equal(value, backbone[name], err_msg=name)
    assert second.train()["phase"] == "adapters"
    for name, value in weights_of(second).items():
        if is_backbone(name):
            np.testing.assert_array_equal(value, backbone[name], err_msg=name)


def test_joint_training_moves_backbone_and_adapters_from_the_start(small_config, build):
    algo = build(small_config(schedule="joint", phase_switch=None))
    before = weights_of(algo)
    assert algo.train()["phase"] == "joint"
    after = weights_of(algo)
    moved = {name for name in before if np.abs(after[name] - before[name]).max() > 0}
    assert any(map(is_backbone, moved)) and any(map(is_adapter, moved))


def test_an_automatic_switch_comes_by_itself_and_its_memory_is_in_the_checkpoint(small_config, build, tmp_path):
    algo = build(small_config(phase_switch="auto", total_env_steps=640))
    phases = [algo.train()["phase"] for _ in range(4)]
    assert phases[0] == "backbone" and algo._watcher.get_state()["seen"]
    algo.save_to_path(str(tmp_path / "checkpoint"))
    again = MAPPO.from_checkpoint(str(tmp_path / "checkpoint"))
    assert again._watcher.get_state() == algo._watcher.get_state()
    phases += [again.train()["phase"] for _ in range(6)]
    again.stop()
    assert phases[-1] == "adapters"  # half of the budget at the latest
    assert phases == sorted(phases, key=["backbone", "adapters"].index)


@BOTH
def test_a_fork_goes_on_like_the_run_that_switches_there(small_config, build, tmp_path, algorithm):
    def trained(config, iterations):
        algo = build(config.training(num_epochs=1))
        for _ in range(iterations):
            algo.train()
        return algo

    trunk = trained(small_config(algorithm=algorithm, phase_switch=6400), 2)
    trunk.save_to_path(str(tmp_path / "trunk"))
    whole = trained(small_config(algorithm=algorithm, phase_switch=128), 2)
    fork = build(
        small_config(algorithm=algorithm, phase_switch=128, fork_from=str(tmp_path / "trunk")).training(num_epochs=1)
    )
    at_fork, at_switch = weights_of(fork), weights_of(whole)
    for name, value in at_switch.items():
        np.testing.assert_array_equal(at_fork[name], value, err_msg=name)
    ours, theirs = (a.learner_group._learner.optimisers()["critic"].state_dict()["state"][0] for a in (fork, whole))
    torch.testing.assert_close(ours["exp_avg"], theirs["exp_avg"], rtol=0, atol=0)
    result = fork.train()
    assert result["phase"] == "adapters" and result["num_env_steps_sampled_lifetime"] == 192
    assert result["training_iteration"] == 3
