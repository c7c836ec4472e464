"""Trains LoRASA on Multi-Agent MuJoCo without Ray, in one process: an environment, a collector, MAPPO's update.

    python examples/train_without_ray.py [ITERATIONS]          # writes the policy to ./policy

`mappo.update` is all of one iteration: advantages, epochs of minibatches, one optimiser step on each. What Ray adds is
env runners and learners on several machines, checkpoints, and Tune.
"""

import sys

import torch

from lorasa_rllib.envs.mamujoco import MAMuJoCo
from lorasa_rllib.learning import mappo
from lorasa_rllib.learning.batch import MAPPOSettings
from lorasa_rllib.learning.owner_adam import OwnerAdam
from lorasa_rllib.nn.network import NetworkConfig
from lorasa_rllib.nn.policy import PolicyConfig, TeamPolicy
from lorasa_rllib.policies.folder import save_policy
from lorasa_rllib.policies.saved import saved
from lorasa_rllib.rollout.collector import Collector
from lorasa_rllib.rollout.memory import Memory
from lorasa_rllib.sharing.methods import owners_of

iterations = int(sys.argv[1]) if len(sys.argv) > 1 else 100
torch.manual_seed(0)
env = MAMuJoCo(num_envs=16, scenario="HalfCheetah", agent_conf="2x3")
owners = owners_of("lora", env.spec, adapter_key="agent")
network = NetworkConfig(hidden_size=64, num_layers=2, obs_norm="running")
policy = TeamPolicy(PolicyConfig(env.spec, owners, network=network))
optimisers = {name: OwnerAdam(policy.parameters_of(name).values()) for name in ("backbone", "adapters", "critic")}
settings = MAPPOSettings(num_epochs=10, minibatch_size=500, max_grad_norm=0.5)
collector = Collector(env, Memory(policy.config, env.num_envs, settings.chunk_length), seed=0)
generator = torch.Generator().manual_seed(0)

for iteration in range(iterations):
    policy.set_phase("backbone" if iteration < 0.3 * iterations else "adapters")  # the shared policy first
    for optimiser in optimisers.values():
        optimiser.param_groups[0]["lr"] = 3e-4 * (1 - iteration / iterations)
    rollout, sampled = collector.steps(250, policy.acting())
    log = mappo.update(policy, optimisers, rollout.to("cpu"), settings, generator)
    returns = [episode.team_return for episode in sampled.episodes]
    shown = f"return {sum(returns) / len(returns):.1f}" if returns else "no episode has ended"
    print(f"{iteration + 1}/{iterations} {policy.phase}: {shown}, policy loss {log['policy_loss']:.4f}", flush=True)

played = collector.episodes(16, policy.acting(), draw="mode").episodes
print(f"greedy return {sum(episode.team_return for episode in played) / len(played):.1f}")
print(f"saved to {save_policy(saved(policy), 'policy')}: lorasa_rllib.load_policy acts with it")
env.close()
