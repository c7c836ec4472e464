"""The base learner of MAPPO and A2PO: connects RLlib to `learning`, which holds all the mathematics."""

from __future__ import annotations

import time
import zlib
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import NoReturn

import numpy as np
import torch
from ray.rllib.core import ALL_MODULES, COMPONENT_RL_MODULE
from ray.rllib.core.learner.learner import Learner
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.utils.annotations import override
from ray.rllib.utils.metrics import (
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    NUM_ENV_STEPS_TRAINED,
    NUM_ENV_STEPS_TRAINED_LIFETIME,
    NUM_MODULE_STEPS_TRAINED,
    NUM_MODULE_STEPS_TRAINED_LIFETIME,
    NUM_NON_TRAINABLE_PARAMETERS,
    NUM_TRAINABLE_PARAMETERS,
)
from ray.rllib.utils.schedules.scheduler import Scheduler
from ray.rllib.utils.typing import ResultDict, StateDict
from torch import Tensor

from lorasa_rllib.freed_memory import keep_freed_memory
from lorasa_rllib.learning.batch import MAPPOSettings
from lorasa_rllib.learning.normalisers import AllSum, alone
from lorasa_rllib.learning.owner_adam import OwnerAdam
from lorasa_rllib.learning.step import Optimisers
from lorasa_rllib.nn.policy import Group, Phase, TeamPolicy
from lorasa_rllib.rllib.module import MODULE_ID
from lorasa_rllib.rllib.room import check_gpu
from lorasa_rllib.rllib.sampled import TeamTrainingData
from lorasa_rllib.rllib.threads import threads, threads_of_learner
from lorasa_rllib.rollout.columns import TeamRollout
from lorasa_rllib.rollout.episodes import PER_AGENT_KEYS_UP_TO

GROUPS: tuple[Group, ...] = ("backbone", "adapters", "critic")
SKIPPED = "skipped_updates"
FETCH_SECONDS = "fetch_seconds"
ADAPTER_NORM = "adapter_norm/"
GENERATOR = "minibatch_generator"


class TeamLearner(TorchLearner):
    """Base class of this package's learners: an optimiser per group, phases, multiple learners, checkpoints.

    Subclasses implement `update_policy`. All learners hold equal parameters: rank 0 broadcasts its own at build, and
    all sums and counts behind an update are reduced over learners before they are divided.
    """

    @override(TorchLearner)
    def build(self) -> None:
        if self._is_built:
            return
        check_gpu(self.config)
        torch.set_num_threads(1)
        keep_freed_memory()
        self._threads = threads_of_learner(self.config)
        self._plan = self.config.plan()
        super().build()
        self._generator = torch.Generator(self._device).manual_seed(self.config.seed or 0)
        self._entropy_coeff = Scheduler(
            fixed_value_or_schedule=self._plan.entropy_coeff, framework=self.framework, device=self._device
        )
        if self.distributed:
            with torch.no_grad():
                for tensor in [*self.policy.parameters(), *self.policy.buffers()]:
                    torch.distributed.broadcast(tensor, 0)

    @property
    def policy(self) -> TeamPolicy:
        return self.module[MODULE_ID].policy

    @property
    def phase(self) -> Phase:
        return self.policy.phase

    @override(TorchLearner)
    def _make_modules_ddp_if_necessary(self) -> None:
        """Disabled: `update_policy` sums gradients itself, as DDP does not support freezing parameters during a run."""

    @override(TorchLearner)
    def configure_optimizers_for_module(self, module_id: str, config: object = None) -> None:
        for group in GROUPS:
            params = list(self.policy.parameters_of(group).values())
            if params:
                self.register_optimizer(
                    module_id=module_id,
                    optimizer_name=group,
                    optimizer=OwnerAdam(params, eps=self.config.adam_epsilon),
                    params=params,
                    lr_or_lr_schedule=self._plan.rates[group],
                )

    def optimisers(self) -> Optimisers:
        names = {group: f"{MODULE_ID}_{group}" for group in GROUPS}
        return {group: self._named_optimizers[n] for group, n in names.items() if n in self._named_optimizers}

    @override(TorchLearner)
    def update(  # type: ignore[override]
        self,
        *,
        training_data: TeamTrainingData,
        timesteps: Mapping[str, int],
        phase: Phase,
        _no_metrics_reduce: bool = False,
        **kwargs: object,
    ) -> ResultDict:
        """Runs one iteration on the rollouts of this learner, in the given phase.

        If any learner's data are lost, all learners skip the iteration and report it as "skipped_updates".
        """
        self._check_is_built()
        self.before_gradient_based_update(timesteps=timesteps)
        started = time.perf_counter()
        rollout = training_data.rollout(self.config.sample_timeout_s)
        fetched = time.perf_counter() - started
        self.metrics.log_value((ALL_MODULES, FETCH_SECONDS), fetched, reduce="mean", window=1)
        ready = self.all_sum(torch.tensor([float(rollout is not None)], device=self._device))
        whole = bool(ready == (self.config.num_learners or 1))
        self.metrics.log_value((ALL_MODULES, SKIPPED), float(not whole), reduce="mean", window=1)
        if whole and rollout is not None:
            if self.policy.phase != phase:
                self.policy.set_phase(phase)
            self._weights_seq_no += 1
            weight = self._entropy_coeff.update(timestep=timesteps.get(NUM_ENV_STEPS_SAMPLED_LIFETIME, 0))
            settings = replace(self._plan.update, entropy_coeff=float(weight))
            with threads(self._threads):
                log = self.update_policy(rollout.to(self._device), settings)
            self._log(log, rollout)
        self.after_gradient_based_update(timesteps=timesteps)
        return None if _no_metrics_reduce else self.metrics.reduce()

    def update_policy(self, rollout: TeamRollout, settings: MAPPOSettings) -> dict[str, Tensor]:
        """One iteration of the algorithm, on a rollout on the device. Returns statistics, equal on all learners."""
        raise NotImplementedError

    @property
    def all_sum(self) -> AllSum:
        return _sum_over_learners if self.distributed else alone

    def _log(self, log: dict[str, Tensor], rollout: TeamRollout) -> None:
        values = torch.stack([value.float() for value in log.values()]).tolist()
        for name, value in zip(log, values, strict=True):
            self.metrics.log_value((MODULE_ID, name), value, reduce="mean", window=1)
        if 0 < self.policy.config.owners.num_adapters <= PER_AGENT_KEYS_UP_TO:
            for adapter, norm in enumerate(self.policy.adapter_norms().tolist()):
                self.metrics.log_value((MODULE_ID, f"{ADAPTER_NORM}{adapter}"), norm, reduce="mean", window=1)
        self._log_trainable_parameters()
        env_steps, agent_steps = rollout.env_steps(), rollout.agent_steps()
        for key, steps in (
            ((ALL_MODULES, NUM_ENV_STEPS_TRAINED), env_steps),
            ((ALL_MODULES, NUM_MODULE_STEPS_TRAINED), agent_steps),
            ((MODULE_ID, NUM_MODULE_STEPS_TRAINED), agent_steps),
        ):
            self.metrics.log_value(key, steps, reduce="sum")
        for key, steps in (
            ((ALL_MODULES, NUM_ENV_STEPS_TRAINED_LIFETIME), env_steps),
            ((ALL_MODULES, NUM_MODULE_STEPS_TRAINED_LIFETIME), agent_steps),
            ((MODULE_ID, NUM_MODULE_STEPS_TRAINED_LIFETIME), agent_steps),
        ):
            self.metrics.log_value(key, steps, reduce="lifetime_sum")

    @override(TorchLearner)
    def _log_trainable_parameters(self) -> None:
        """Logs parameter counts at every update, as they change with the phase."""
        parameters = list(self.policy.parameters())
        trained = sum(p.numel() for p in parameters if p.requires_grad)
        fixed = sum(p.numel() for p in parameters) - trained
        for key, value in ((NUM_TRAINABLE_PARAMETERS, trained), (NUM_NON_TRAINABLE_PARAMETERS, fixed)):
            for module in (MODULE_ID, ALL_MODULES):
                self.metrics.log_value((module, key), value, reduce="mean", window=1)

    def load_weights(self, weights: Mapping[str, np.ndarray | Tensor]) -> None:
        """Overwrites the weights with these names in the policy; the rest stay."""
        own = self.policy.state_dict()
        own.update({name: torch.as_tensor(value) for name, value in weights.items()})
        self.policy.load_state_dict(own)

    @override(Learner)
    def get_state(
        self,
        components: str | Collection[str] | None = None,
        *,
        not_components: str | Collection[str] | None = None,
        **kwargs: object,
    ) -> StateDict:
        state = super().get_state(components, not_components=not_components, **kwargs)
        if self._check_component(GENERATOR, components, not_components):
            state[GENERATOR] = self._generator.get_state().numpy()
        return state

    @override(Learner)
    def set_state(self, state: StateDict) -> None:
        """Loads weights whatever their sequence number, as a restored checkpoint may be older than the current ones."""
        if COMPONENT_RL_MODULE in state:
            self.module.set_state(state[COMPONENT_RL_MODULE])
        super().set_state({name: part for name, part in state.items() if name != COMPONENT_RL_MODULE})
        if GENERATOR in state:
            restore_generator(self._generator, torch.as_tensor(state[GENERATOR]))

    @override(Learner)
    def compute_loss_for_module(self, **kwargs: object) -> NoReturn:
        raise NotImplementedError("the loss is computed on whole teams, see `update_policy`.")


def restore_generator(generator: torch.Generator, state: Tensor) -> None:
    """Restores a generator; a state from another device type, which cannot be loaded, is hashed into a seed."""
    if state.shape == generator.get_state().shape:
        generator.set_state(state)
    else:
        generator.manual_seed(zlib.crc32(state.numpy().tobytes()))


def _sum_over_learners(x: Tensor) -> Tensor:
    torch.distributed.all_reduce(x)
    return x
