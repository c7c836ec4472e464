"""The module and the environments under RLlib's own PPO, env runner and learner, unmodified."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ray.rllib.algorithms.ppo import PPO, PPOConfig

from lorasa_rllib import shared_policy_spec
from lorasa_rllib.envs.synthetic import SyntheticTeam
from lorasa_rllib.rllib.module import (
    MODULE_ID,
    LoRASAModule,
    distribution_inputs,
    map_to_shared_policy,
    row_distribution,
)
from lorasa_rllib.rllib.spaces import row_spaces
from tests.helpers import make_policy, owner_tables, random_obs, randomise, team

ROOT = Path(__file__).parents[2]
CONTINUOUS = {"num_agents": 3, "unequal": True, "episode_length": 9, "termination": 0.05}
DISCRETE = {"num_agents": 3, "unequal": True, "episode_length": 9, "deaths": 0.1, "discrete": True, "action_size": 5}
TEAMS = {
    "continuous": (CONTINUOUS, {}),
    "discrete with masks and deaths": (DISCRETE, {}),
    "own rewards": (DISCRETE | {"shared_reward": False}, {}),
    "adapters by role": (DISCRETE | {"num_roles": 2}, {"adapter_key": "role"}),
    "plain shared policy": (CONTINUOUS, {"sharing": "ps"}),
}


def stock_ppo(env_config, module_class=LoRASAModule, **options) -> PPOConfig:
    spec = shared_policy_spec("synthetic", env_config, network={"hidden_size": 16}, **({"r": 2} | options))
    spec.module_class = module_class
    return (
        PPOConfig()
        .environment("synthetic", env_config=env_config)
        .multi_agent(policies={MODULE_ID}, policy_mapping_fn=map_to_shared_policy)
        .rl_module(rl_module_spec=spec)
        .env_runners(num_env_runners=0, num_envs_per_env_runner=2)
        .training(train_batch_size_per_learner=64, minibatch_size=64, num_epochs=2, lr=1e-2)
        .debugging(seed=3, log_level="ERROR")
        .fault_tolerance(restart_failed_env_runners=False)
    )


def parameters(algo) -> dict[str, np.ndarray]:
    """Weights on the learner."""
    state = algo.learner_group.get_state(components=f"learner/rl_module/{MODULE_ID}")["learner"]["rl_module"]
    return {name: np.array(value) for name, value in state[MODULE_ID].items()}


def moved(before, after) -> set[str]:
    return {name.removeprefix("policy.") for name in before if not np.array_equal(before[name], after[name])}


@pytest.mark.parametrize("team", TEAMS)
def test_stock_ppo_trains_every_parameter_and_its_checkpoint_restores(build, tmp_path, team):
    env_config, options = TEAMS[team]
    algo = build(stock_ppo(env_config, **options))
    before = parameters(algo)
    for _ in range(2):
        result = algo.train()
    after = parameters(algo)
    still = {name for name in before if name.removeprefix("policy.") not in moved(before, after)}
    assert all(name.endswith("_phase") or "value_norm" in name for name in still)
    assert all(np.isfinite(value).all() for value in after.values())
    losses = result["learners"][MODULE_ID]
    assert all(np.isfinite(losses[name]) for name in ("policy_loss", "vf_loss", "entropy", "mean_kl_loss"))
    algo.save_to_path(tmp_path)
    again = PPO.from_checkpoint(tmp_path)
    try:
        assert not moved(after, parameters(again))
        phase = "joint" if options.get("sharing") != "ps" else "backbone"
        assert again.get_module(MODULE_ID).policy.phase == phase
        again.train()
    finally:
        again.stop()


def test_remote_env_runners_find_the_registered_environment(build):
    result = build(stock_ppo(DISCRETE).env_runners(num_env_runners=1)).train()
    assert result["num_env_steps_sampled_lifetime"] >= 64


def test_two_stock_learners_stay_equal(build):
    algo = build(stock_ppo(CONTINUOUS).learners(num_learners=2))
    for _ in range(2):
        algo.train()
    checks = algo.learner_group.foreach_learner(
        lambda learner: {n: float(p.detach().double().sum()) for n, p in learner.module[MODULE_ID].named_parameters()}
    )
    one, two = (check.get() for check in checks)
    assert one == two


def test_frozen_parameters_rest_and_the_phase_may_change_within_a_run(build):
    algo = build(stock_ppo(CONTINUOUS, phase="backbone"))
    adapter = ("lora_A", "lora_B", "delta")
    for phase in ("backbone", "adapters", "joint"):
        algo.learner_group.foreach_learner(lambda learner, p=phase: learner.module[MODULE_ID].policy.set_phase(p))
        before = parameters(algo)
        algo.train()
        actor = {name for name in moved(before, parameters(algo)) if name.startswith("actor.")}
        kinds = {name.endswith(adapter) for name in actor}
        assert kinds == {"backbone": {False}, "adapters": {True}, "joint": {True, False}}[phase]
        assert algo.env_runner.module[MODULE_ID].policy.phase == phase


def test_bad_settings_of_the_module_are_named():
    with pytest.raises(ValueError, match="r=0"):
        shared_policy_spec("synthetic", CONTINUOUS, r=0)
    with pytest.raises(ValueError, match="'no-such-method' is unknown"):
        shared_policy_spec("synthetic", CONTINUOUS, "no-such-method")
    with pytest.raises(ValueError, match=r"phase_switch.*choose a phase"):
        shared_policy_spec("synthetic", CONTINUOUS, phase_switch=0.2)
    with pytest.raises(ValueError, match="phase='adapters' needs adapters"):
        shared_policy_spec("synthetic", CONTINUOUS, "ps", phase="adapters").build()
    with pytest.raises(ValueError, match="recurrent networks need this package"):
        shared_policy_spec("synthetic", CONTINUOUS, network={"recurrent": True})


# Rows in any order

ROLES = DISCRETE | {"num_roles": 2}


@pytest.mark.parametrize("phase", ["backbone", "joint"])
@pytest.mark.parametrize(
    ("env_config", "options"), [(CONTINUOUS, {}), (DISCRETE, {}), (ROLES, {"adapter_key": "role"})]
)
def test_shuffled_rows_give_shuffled_outputs(env_config, options, phase):
    module = shared_policy_spec("synthetic", env_config, r=2, phase=phase, **options).build()
    randomise(module.policy)
    env, rng = SyntheticTeam(7, **env_config), np.random.default_rng(0)
    step = env.reset(0)
    rows = {
        "obs": torch.from_numpy(step.obs).flatten(0, 1),
        "agent": torch.arange(3).repeat(7),
        "state": torch.from_numpy(step.state).repeat_interleave(3, 0),
    }
    if step.masks is not None:
        rows["action_mask"] = torch.from_numpy(step.masks).flatten(0, 1).to(torch.int8)
    if step.roles is not None:
        rows["role"] = torch.from_numpy(step.roles).flatten()
    order = torch.from_numpy(rng.permutation(21))[:17]  # agents differ in their number of rows
    shuffled = {"obs": {name: column[order] for name, column in rows.items()}}
    with torch.no_grad():
        inputs = module.forward_inference({"obs": rows})["action_dist_inputs"]
        values = module.compute_values({"obs": rows})
        torch.testing.assert_close(module.forward_inference(shuffled)["action_dist_inputs"], inputs[order])
        torch.testing.assert_close(module.compute_values(shuffled), values[order])
    assert inputs.std(0).max() > 0 and torch.isfinite(values).all()


@pytest.mark.parametrize("distribution", ["squashed_gaussian", "gaussian"])
def test_losses_have_finite_gradients_also_where_the_standard_deviation_is_saturated(distribution):
    module = shared_policy_spec("synthetic", CONTINUOUS, network={"distribution": distribution}).build()
    with torch.no_grad():
        module.policy.actor.log_std.weight.fill_(30.0)
    rows = {"obs": torch.ones(6, 4), "agent": torch.arange(3).repeat(2), "state": torch.ones(6, 4)}
    inputs = module.forward_train({"obs": rows})["action_dist_inputs"]
    now, then = (module.get_train_action_dist_cls().from_logits(x) for x in (inputs, inputs.detach()))
    (now.logp(then.sample()) + now.entropy() + then.kl(now)).sum().backward()
    for name, parameter in module.policy.actor.named_parameters():
        assert parameter.grad is None or torch.isfinite(parameter.grad).all(), name


ROLLOUT = """
import json, sys
import numpy as np
from ray.rllib.env.multi_agent_env_runner import MultiAgentEnvRunner
from lorasa_rllib.rllib.module import LoRASAModule
from tests.helpers import randomise
from tests.rllib.test_stock import RecordsOrder, stock_ppo

team = {"num_agents": 6, "unequal": True, "episode_length": 9, "termination": 0.05}
config = stock_ppo(team, module_class=RecordsOrder)
runner = MultiAgentEnvRunner(config=config, worker_index=0)
module = runner.module["shared_policy"]
randomise(module.policy)
columns = {}
for episode in runner.sample(num_timesteps=60, explore=False):
    for agent, part in episode.agent_episodes.items():
        for name, column in (
            ("inputs", part.get_extra_model_outputs("action_dist_inputs")),
            ("actions", part.get_actions()),
            ("rewards", part.get_rewards()),
        ):
            columns.setdefault(f"{agent} {name}", []).append(np.asarray(column, np.float64).tolist())
json.dump({"order": module.orders[0], "columns": columns}, sys.stdout)
"""


class RecordsOrder(LoRASAModule):
    """Remembers in which order agents came."""

    def _forward(self, batch, **kwargs):
        self.orders = [*getattr(self, "orders", []), batch["obs"]["agent"].flatten().tolist()]
        return super()._forward(batch, **kwargs)


def test_outputs_and_greedy_rollouts_do_not_depend_on_the_order_in_which_rllib_hands_over_agents():
    """RLlib iterates over a set of agent names, so the order of rows differs between processes."""
    runs = []
    for seed in ("0", "1"):
        process = subprocess.run(
            [sys.executable, "-c", ROLLOUT],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed},
        )
        assert process.returncode == 0, process.stderr
        runs.append(json.loads(process.stdout[process.stdout.index("{") :]))
    first, second = runs
    assert first["order"] != second["order"], "the hash seeds do not change the order: choose others"
    assert sorted(first["order"]) == sorted(second["order"])
    assert len(first["columns"]) == 18 and first["columns"].keys() == second["columns"].keys()
    for name, chunks in first["columns"].items():
        for one, other in zip(chunks, second["columns"][name], strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-6, err_msg=name)


def test_rows_of_several_components_are_drawn_and_counted_as_one_action():
    """Log-probabilities, entropies and divergences are sums over components; padding adds nothing."""
    spec = team((3, 2), (5, 4), continuous=False, choices=((2, 3), (4,)))
    policies = [make_policy(spec, owner_tables(2)["lora"], seed=seed) for seed in (0, 1)]
    obs, agents = random_obs(spec, 6).flatten(0, 1), torch.arange(2).repeat(6)
    given = [policy.distribution(obs, agent=agents) for policy in policies]
    kind = row_distribution(None, spec.action_dims)
    mine, theirs = (kind.from_logits(distribution_inputs(distribution)) for distribution in given)
    _, action = row_spaces(spec)
    assert kind.required_input_dim(action) == mine.inputs.shape[-1] == 8
    drawn = mine.sample()
    assert all(action.contains(row.numpy()) for row in drawn)
    torch.testing.assert_close(mine.logp(drawn), given[0].log_prob(drawn).sum(-1))
    torch.testing.assert_close(mine.entropy(), given[0].entropy().sum(-1))
    assert torch.equal(mine.to_deterministic().sample().long(), given[0].mode())
    p, q = (distribution.each.log_probs.clamp(min=-1e9) for distribution in given)
    torch.testing.assert_close(mine.kl(theirs), (p.exp() * (p - q)).sum((-1, -2)))
