"""A whole published iteration as a policy, a rollout and settings of ours."""

from __future__ import annotations

from typing import Any

import torch

from lorasa_rllib.learning.batch import MAPPOSettings
from lorasa_rllib.learning.owner_adam import OwnerAdam
from lorasa_rllib.learning.reference import REFERENCE
from lorasa_rllib.nn.policy import TeamPolicy
from lorasa_rllib.rollout.columns import TeamRollout
from tests.reference.vectors import Vectors, close, published_policy, state_of

PARAMETERS = (2e-5, 0.0)
RETURNS = (5e-5, 0.0)
LOGS = (1e-5, 1e-4)
NORM = (0.0, 1e-5)


def policy_of(file: Vectors) -> TeamPolicy:
    agents, obs = file["buf.obs"].shape[2:]
    policy = published_policy(
        agents,
        obs,
        file["buf.actions"].shape[-1],
        file["buf.critic_input"].shape[-1],
        file["buf.h_actor"].shape[-1],
        r=file.number("cfg.rank"),
        lora_alpha=file.number("cfg.alpha"),
        dtype=file.dtype,
    )
    policy.actor.load_state_dict(state_of(file.under("init.actor")))
    policy.critic.load_state_dict(state_of(file.under("init.critic")))
    policy.value_norm.load_state_dict(file.under("init.vn"))
    return policy


def rollout_of(file: Vectors) -> TeamRollout:
    """Episodes end for all agents of an environment together. States are those after the reset, as ours are."""
    masks, bad_masks = file["buf.masks"][..., 0], file["buf.bad_masks"][..., 0]
    assert (masks == masks[..., :1]).all() and (bad_masks == bad_masks[..., :1]).all()
    ended, truncated = masks[1:, :, 0] == 0, bad_masks[1:, :, 0] == 0
    assert truncated.any() and not (truncated & ~ended).any()
    values = torch.cat([file["buf.values"], file["buf.next_value"][None]])[..., 0]
    final_index = truncated.nonzero()
    chunk, steps = file.number("cfg.chunk_length"), len(file["buf.actions"])
    states = {
        name: (file[f"buf.h_{name}"] * file["buf.masks"])[:steps:chunk] for name in ("actor", "critic")
    }  # carried into the first step of every chunk
    return TeamRollout(
        obs=file["buf.obs"][:-1],
        state=file["buf.critic_input"],
        actions=file["buf.actions"],
        log_probs=file["buf.log_probs"],
        rewards=file["buf.rewards"][..., 0],
        terminated=ended & ~truncated,
        truncated=truncated,
        active=file["buf.active_masks"][..., 0] > 0,
        final_index=final_index,
        final_obs=torch.zeros(len(final_index), *file["buf.obs"].shape[2:]),
        final_state=torch.zeros(len(final_index), *file["buf.critic_input"].shape[2:]),
        values=values,
        final_values=values[0, 0].new_zeros(len(final_index), values.shape[-1]),  # time limits get no target at all
        actor_state=states["actor"],
        critic_state=states["critic"],
    )


def settings_of(file: Vectors, settings: Any = MAPPOSettings, **more: Any) -> Any:
    assert file.number("cfg.num_mini_batch") == 1
    return settings(
        gamma=file.number("cfg.gamma"),
        lambda_=file.number("cfg.gae_lambda"),
        clip=file.number("cfg.clip"),
        value_clip=file.number("cfg.value_clip"),
        value_coeff=file.number("cfg.value_loss_coef"),
        huber_delta=file.number("cfg.huber_delta"),
        entropy_coeff=file.number("cfg.entropy_coef"),
        max_grad_norm=file.number("cfg.max_grad_norm"),
        num_epochs=file.number("cfg.epochs"),
        chunk_length=file.number("cfg.chunk_length"),
        rules=REFERENCE,
        **more,
    )


def optimisers_of(policy: TeamPolicy, file: Vectors) -> dict[str, OwnerAdam]:
    numbers = {"lr": file.number("cfg.lr"), "eps": file.number("cfg.adam_eps")}
    betas = (file.number("cfg.adam_beta1"), file.number("cfg.adam_beta2"))
    return {
        group: OwnerAdam(policy.parameters_of(group).values(), betas=betas, **numbers)
        for group in ("backbone", "adapters", "critic")
    }


def same_result(policy: TeamPolicy, file: Vectors, prefix: str = "") -> None:
    """Adapters, critic and normaliser are the published ones; everything else is as it was at first."""
    actor, critic = policy.actor.state_dict(), policy.critic.state_dict()
    frozen, trained = state_of(file.under("init.actor")), state_of(file.under(f"{prefix}final.actor"))
    assert trained
    for name, value in actor.items():
        close(value, trained.get(name, frozen[name]), *(PARAMETERS if name in trained else (0.0, 0.0)))
    for name, value in state_of(file.under(f"{prefix}final.critic")).items():
        close(critic[name], value, *PARAMETERS)
    for name, value in file.under(f"{prefix}final.vn").items():
        close(getattr(policy.value_norm, name), value, *NORM)
