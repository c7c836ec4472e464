"""The MAPPO update (Yu et al. 2022, arXiv 2103.01955): epochs over minibatches of a rollout, one step on each."""

from __future__ import annotations

import torch
from torch import Tensor

from lorasa_rllib.learning.batch import MAPPOSettings, prepare, targets_of, with_targets
from lorasa_rllib.learning.compiled import StepCompiler
from lorasa_rllib.learning.normalisers import AllSum, alone, update_obs_norm
from lorasa_rllib.learning.passes import passes
from lorasa_rllib.learning.step import STATISTICS, EagerStep, Norms, Optimisers, Step, moved_far
from lorasa_rllib.nn.policy import TeamPolicy
from lorasa_rllib.rollout.columns import TeamRollout


def update(
    policy: TeamPolicy,
    optimisers: Optimisers,
    rollout: TeamRollout[Tensor],
    settings: MAPPOSettings,
    generator: torch.Generator,
    all_sum: AllSum = alone,
    compiler: StepCompiler | None = None,
) -> dict[str, Tensor]:
    """One MAPPO iteration on one rollout. Returns means of statistics. All tensors are on the policy's device.

    all_sum: sums a tensor over learners, which run the same code on their own environments. compiler: compiles
    optimiser steps, which are used as soon as they are ready; None: steps run eagerly.
    """
    batch, log = prepare(policy, rollout, settings, all_sum)
    eager = EagerStep(policy, optimisers, settings, all_sum)
    step: Step = eager
    totals, rows = [], []
    norms: Norms = {}
    for number, one in enumerate(passes(policy, batch, settings, generator, all_sum)):
        if number and settings.recompute_advantages:
            batch = with_targets(policy, batch, rollout, targets_of(policy, rollout, settings), all_sum)
        minibatches = list(one.minibatches(batch))
        if not number and compiler is not None:
            step = compiler.step(eager, minibatches[0])
        sums = []
        for minibatch in minibatches:
            stats, norms = step(minibatch, generator)
            sums.append(stats)
        totals.append(torch.stack(sums).sum(0))
        rows.append(one.rows())
        in_pass = dict(zip(STATISTICS, totals[-1], strict=True)) | {"live": rows[-1][0]}
        if moved_far([in_pass], settings.target_kl):
            break
    step.finish()
    update_obs_norm(policy, rollout, settings.obs_norm_in_adapter_phase, all_sum)
    live, counted = torch.stack(rows).sum(0).clamp(min=1)
    for name, total in zip(STATISTICS, torch.stack(totals).sum(0), strict=True):
        log[name] = total / (counted if name == "vf_loss" else live)
    log["total_loss"] = (
        log["policy_loss"] + settings.value_coeff * log["vf_loss"] - settings.entropy_coeff * log["entropy"]
    )
    log |= {f"{name}_grad_norm": norm.nanmean().nan_to_num() for name, norm in norms.items()}
    return log | {"passes": torch.tensor(float(len(totals)), device=live.device)}
