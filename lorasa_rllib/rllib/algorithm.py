"""Base class of the algorithms: RLlib's PPO loop with team sampling, phases, result keys and checkpoints."""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn, Self

import numpy as np
import ray
import torch
from pyarrow.fs import FileSystem, copy_files
from ray.exceptions import RayError
from ray.rllib.algorithms.ppo.ppo import PPO
from ray.rllib.core import (
    ALL_MODULES,
    COMPONENT_LEARNER,
    COMPONENT_LEARNER_GROUP,
    COMPONENT_METRICS_LOGGER,
    COMPONENT_RL_MODULE,
)
from ray.rllib.env.env_runner_group import EnvRunnerGroup
from ray.rllib.utils.annotations import override
from ray.rllib.utils.metrics import (
    ENV_RUNNER_RESULTS,
    ENV_RUNNER_SAMPLING_TIMER,
    EPISODE_AGENT_RETURN_MEAN,
    EPISODE_RETURN_MEAN,
    LEARNER_RESULTS,
    LEARNER_UPDATE_TIMER,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    NUM_EPISODES_LIFETIME,
    SYNCH_WORKER_WEIGHTS_TIMER,
    TIMERS,
    WEIGHTS_SEQ_NO,
)
from ray.rllib.utils.typing import ResultDict, StateDict
from ray.tune import PlacementGroupFactory

from lorasa_rllib.envs.ordered import check_team
from lorasa_rllib.nn.policy import PHASES, Phase, TeamPolicy
from lorasa_rllib.policies.folder import save_policy
from lorasa_rllib.policies.saved import SavedPolicy, saved
from lorasa_rllib.rllib.checkpoints import (
    checkpoint_at,
    config_of_checkpoint,
    origin_of,
    phase_of,
    policy_config_of,
    policy_inside,
    read_trained,
    readable,
    seal,
)
from lorasa_rllib.rllib.config import TeamConfig
from lorasa_rllib.rllib.describe import trainable_parameters
from lorasa_rllib.rllib.evaluating import EvaluatingPPO
from lorasa_rllib.rllib.faults import Fault
from lorasa_rllib.rllib.gauges import Gauges
from lorasa_rllib.rllib.grouping import with_groups
from lorasa_rllib.rllib.initial_weights import (
    adapter_weights,
    backbone_weights,
    check_phase,
    check_same_network,
    check_same_owners,
)
from lorasa_rllib.rllib.learner import FETCH_SECONDS, SKIPPED, TeamLearner
from lorasa_rllib.rllib.metric_names import with_own_names, with_safe_names
from lorasa_rllib.rllib.module import ACTING, MODULE_ID
from lorasa_rllib.rllib.plan import network_of, owners_of_team
from lorasa_rllib.rllib.results import METRICS, SPLIT, RecentEpisodes
from lorasa_rllib.rllib.room import check_address, check_gpu, check_machine, wait_for_room
from lorasa_rllib.rllib.runner import TeamEnvRunner
from lorasa_rllib.rllib.sampled import shards_of_learners
from lorasa_rllib.rllib.sampling import ATTEMPTS, Sampling, name_of, returned
from lorasa_rllib.rllib.starts import death_of_runners
from lorasa_rllib.rllib.storage import on_this_machine
from lorasa_rllib.rllib.teams import learn_team, order_agents
from lorasa_rllib.rollout.episodes import Sampled

logger = logging.getLogger(__name__)


class TeamAlgorithm(EvaluatingPPO):
    """Synchronous on-policy training of a team: sample, update, broadcast weights."""

    def __init__(self, config: object = None, env: object = None, **kwargs: object):
        config = _as_config(config, self.get_default_config())
        if env is not None:
            config.environment(env)
        if config.env is None:
            super().__init__(config, **kwargs)  # raises the error
            return
        if not ray.is_initialized() and (address := os.environ.get("RAY_ADDRESS")):
            check_address(address, "RAY_ADDRESS")
        known = learn_team(config, keep=not config.num_env_runners)
        try:
            if config.num_env_runners:
                known.check()  # fail here, where errors are easier to find than in env runner processes
            super().__init__(config, **kwargs)
        except BaseException:
            known.seen.close()
            raise

    def __repr__(self) -> str:
        # Ray calls it when the constructor raises; RLlib's needs the config, and its error would hide the cause.
        return type(self).__name__ if getattr(self, "config", None) is None else super().__repr__()

    @classmethod
    @override(PPO)
    def default_resource_request(cls, config: TeamConfig | Mapping[str, object]) -> PlacementGroupFactory:
        """The placement group of a trial. Raises ValueError if this machine is all there is, and it is too small."""
        group = cls.placement_of_trial(config)
        check_machine(_as_config(config, cls.get_default_config()), group.bundles[0])
        return group

    @classmethod
    def placement_of_trial(cls, config: TeamConfig | Mapping[str, object]) -> PlacementGroupFactory:
        """The placement group of a trial, whether or not this machine has room for it."""
        return super().default_resource_request(config)

    @override(PPO)
    def setup(self, config: TeamConfig) -> None:
        if not config.num_learners:
            check_gpu(config)
        wait_for_room(config)
        self.config = config = with_groups(_in_order_of_source(config))
        self._beyond_budget = False
        self._plan = config.plan()
        self._schedule = self._plan.schedule
        self._watcher = self._schedule.watcher()
        self._phase: Phase = self._schedule.phase_at(0, watcher=self._watcher)
        # Set before `_build_all` calls the on_algorithm_init callbacks, which may restore a checkpoint.
        self.__dict__.pop("_sampling", None)
        self._episodes = RecentEpisodes(self.config.metrics_num_episodes_for_smoothing)
        self._gauges = Gauges(config.trial_name or str(getattr(config.env, "__name__", config.env)))
        self._build_all(config)
        if self.config.backbone is not None:
            self._start_from(backbone_weights(self.config.backbone, self._plan.policy))
        if self.config.adapters is not None:
            self._start_from(adapter_weights(self.config.adapters, self._plan.policy))
        if self.config.fork_from is not None:
            self.restore_from_path(self.config.fork_from)

    @cached_property
    def _sampling(self) -> Sampling:
        group = self.env_runner_group
        return Sampling(group, self.config, self._faults, lambda: self.restore_env_runners(group))

    def _build_all(self, config: TeamConfig) -> None:
        """Runs RLlib's setup. Raises the error of any env runner that could not be built."""
        try:
            super().setup(config)
        except (IndexError, RayError) as error:
            died = death_of_runners(error)
            if died is None:
                raise
            raise RuntimeError(
                f"no env runner could be built: {died}. Their log has more (a simulator that crashes, too little "
                "memory, a module that their machine lacks)."
            ) from error
        for group in (self.env_runner_group, self.eval_env_runner_group):
            evaluates = group is self.eval_env_runner_group
            for runner, fault in [] if group is None else group.foreach_env_runner(_fault_of, local_env_runner=False):
                if fault is not None:
                    self.cleanup()
                    raise fault.exception(name_of(runner, evaluates))

    def _start_from(self, weights: Mapping[str, np.ndarray | torch.Tensor]) -> None:
        phase = self._phase  # set now, so that env runners have it from the first round

        def load(learner: TeamLearner) -> None:
            learner.load_weights(weights)
            learner.policy.set_phase(phase)

        self.learner_group.foreach_learner(load)
        self._hand_out_weights()

    @override(PPO)
    def training_step(self) -> None:
        for _ in range(ATTEMPTS):
            sampled = self._sample()
            if self.config.sample_ahead:
                self._sampling.begin()
            if self._update(sampled):
                break
            self._faults.tell("a rollout was lost on its way to the learner; sampling once more")
        else:
            raise RuntimeError(f"rollouts were lost in {ATTEMPTS} rounds of sampling in a row; are env runners dying?")
        with self._timed("sync", SYNCH_WORKER_WEIGHTS_TIMER):
            self._hand_out_weights()

    @contextmanager
    def _timed(self, part: str, timer: str) -> Iterator[None]:
        """Logs the seconds of the context under RLlib's timer (smoothed) and in this iteration's `SPLIT`."""
        started = time.perf_counter()
        with self.metrics.log_time((TIMERS, timer)):
            yield
        self.metrics.log_value((SPLIT, part), time.perf_counter() - started, reduce="mean", window=1)

    def _sample(self) -> list[Sampled]:
        self._warn_beyond_budget()
        self._phase = self._schedule.phase_at(self._env_steps(), self._phase, self._watcher)
        with self._timed("sample", ENV_RUNNER_SAMPLING_TIMER):
            sampled, results = self._sampling.round()
        self.metrics.aggregate(results, key=ENV_RUNNER_RESULTS)
        self._episodes.add(sampled)
        for name, value in self._episodes.statistics().items():
            self.metrics.log_value((ENV_RUNNER_RESULTS, name), value, reduce="mean", window=1)
        for name, value in self._episodes.reported_metrics().items():
            self.metrics.log_value((ENV_RUNNER_RESULTS, METRICS, name), value, reduce="mean", window=1)
        if self._watcher is not None and self._episodes.any:
            self._watcher.add(self._env_steps(), self._episodes.statistics()[EPISODE_RETURN_MEAN])
        for agent, value in zip(self._plan.spec.agents, self._episodes.agent_returns(), strict=False):
            key = (ENV_RUNNER_RESULTS, EPISODE_AGENT_RETURN_MEAN, agent)
            self.metrics.log_value(key, value, reduce="mean", window=1)
        return sampled

    def _warn_beyond_budget(self) -> None:
        """Warns once if the learning rate has decayed to 0: RLlib does not stop at `total_env_steps` by itself."""
        steps, budget = self._env_steps(), self.config.total_env_steps
        if budget is not None and steps >= budget and self.config.decays() and not self._beyond_budget:
            self._beyond_budget = True
            logger.warning(
                f"training continues after {steps:,} environment steps, but the learning rate has decayed to 0 over "
                f"total_env_steps={budget:,}: nothing is learnt any more. Stop here, set a larger budget with "
                ".sharing(total_env_steps=...), or a rate that stays with .training(lr=...)."
            )

    def _update(self, sampled: list[Sampled]) -> bool:
        """Runs one learner update. Returns False if rollouts were lost and all learners skipped it."""
        with self._timed("learn", LEARNER_UPDATE_TIMER):
            results = self.learner_group.update(
                training_data=shards_of_learners(sampled),
                timesteps={NUM_ENV_STEPS_SAMPLED_LIFETIME: self._env_steps()},
                phase=self._phase,
                defer_solve_refs_to_learner=True,
            )
        skipped = any(result[ALL_MODULES][SKIPPED].peek() for result in results)
        fetched = max(result[ALL_MODULES][FETCH_SECONDS].peek() for result in results)
        learned = self.metrics.peek((SPLIT, "learn")) - fetched
        for part, seconds in (("transfer", fetched), ("learn", learned)):
            self.metrics.log_value((SPLIT, part), seconds, reduce="mean", window=1)
        self.metrics.aggregate(results, key=LEARNER_RESULTS)
        return not skipped

    def _hand_out_weights(self) -> None:
        """Sends the learner's weights to all env runners and waits for them; with `sample_ahead`, does not wait.

        RLlib's own `sync_weights` does not wait, and drops an update while an earlier one is in progress.
        """
        module = f"{COMPONENT_LEARNER}/{COMPONENT_RL_MODULE}/{MODULE_ID}"
        state = self.learner_group.get_state(components=module, inference_only=True)[COMPONENT_LEARNER]
        state = {name: state[name] for name in (COMPONENT_RL_MODULE, WEIGHTS_SEQ_NO)}
        for group in (self.env_runner_group, self.eval_env_runner_group):
            if group is None:
                continue
            if group.local_env_runner is not None:
                group.local_env_runner.set_state(state)
            if group.num_healthy_remote_workers():
                group.foreach_env_runner(
                    "set_state",
                    kwargs={"state": ray.put(state)},
                    local_env_runner=False,
                    timeout_seconds=0.0 if self.config.sample_ahead else self.config.sample_timeout_s,
                )

    @override(PPO)
    def restore_env_runners(self, env_runner_group: EnvRunnerGroup) -> list[int]:
        """Restores lost env runners that answer again. RLlib's own method waits for the others in every iteration."""
        back = returned(env_runner_group)
        if back:
            self._hand_out_weights()
            evaluates = env_runner_group is self.eval_env_runner_group
            names = ", ".join(name_of(runner, evaluates) for runner in sorted(back))
            self._faults.tell(f"{names} came back", is_fault=False)
        return back

    def _env_steps(self) -> int:
        return int(self.metrics.peek((ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME), default=0))

    @override(PPO)
    def step(self) -> ResultDict:
        results = super().step()
        results["phase"] = self._phase
        results["phase_index"] = PHASES.index(self._phase)
        results["faults"], results["num_faults"] = "; ".join(self._faults.take()), self._faults.count
        results.setdefault(ENV_RUNNER_RESULTS, {}).setdefault(NUM_EPISODES_LIFETIME, 0)
        self._gauges.show(results, self.env_runner_group.num_healthy_remote_workers())
        return results

    @override(PPO)
    def cleanup(self) -> None:
        steps, budget = self._env_steps(), self.config.total_env_steps
        if self._phase == "backbone" and self._schedule.has_adapters and steps and steps >= (budget or 0):
            logger.warning(
                f"the run ends after {steps:,} environment steps in its backbone phase: the adapters never trained. "
                "Set an earlier .sharing(phase_switch=...), smaller batches, or schedule='joint'."
            )
        super().cleanup()

    # Checkpoints

    @override(PPO)
    def get_ctor_args_and_kwargs(self) -> tuple[tuple[object, ...], dict[str, object]]:
        """Leaves out the files this run started from: a checkpoint holds all weights, and they may no longer exist."""
        config = self.config.copy(copy_frozen=False).sharing(backbone=None, adapters=None, fork_from=None)
        return (config.get_state(),), {}

    @override(PPO)
    def get_state(
        self,
        components: str | Collection[str] | None = None,
        *,
        not_components: str | Collection[str] | None = None,
        **kwargs: object,
    ) -> StateDict:
        state = super().get_state(components, not_components=not_components, **kwargs)
        if COMPONENT_METRICS_LOGGER in state:
            state[COMPONENT_METRICS_LOGGER] = with_safe_names(state[COMPONENT_METRICS_LOGGER], self.metrics.stats)
        state["recent_episodes"] = self._episodes.get_state()
        if self._watcher is not None:
            state["auto_switch"] = self._watcher.get_state()
        return state

    @override(PPO)
    def set_state(self, state: StateDict) -> None:
        super().set_state(state)
        if COMPONENT_METRICS_LOGGER in state:
            self.metrics.stats = with_own_names(self.metrics.stats)
        if "recent_episodes" in state:
            self._episodes.set_state(state["recent_episodes"])
        if self._watcher is not None and "auto_switch" in state:
            self._watcher.set_state(state["auto_switch"])
        if COMPONENT_LEARNER_GROUP in state:
            self._act_with_what_was_restored()

    @override(PPO)
    def restore_from_path(
        self, path: str | Path, *, component: str | None = None, filesystem: object = None, **kwargs: object
    ) -> None:
        """Restores a checkpoint; all env runners use it from the next `sample()` or `evaluate()`.

        path: a local path or a URI. component: name of the part of a checkpoint that `path` is; restores only that.
        Agents are matched by name: if their order differs, env runners and learners are rebuilt in the checkpoint's.
        Raises ValueError for a checkpoint of another team, sharing method, schedule or network.
        """
        with on_this_machine(path, filesystem) as here:
            if component is None:
                here = checkpoint_at(here)
            policy = policy_inside(here, component)
            if policy is not None:
                self._prepare_for(path, policy)
            with readable(path):
                super().restore_from_path(str(here.absolute()), component=component, **kwargs)
        self._act_with_what_was_restored()

    def _prepare_for(self, path: str | Path, policy: Path) -> None:
        """Ensures that weights go to the agents that trained them. policy: folder of the policy in `path`."""
        theirs = policy_config_of(policy)
        config = self.config.copy(copy_frozen=False).sharing(backbone=None, adapters=None, fork_from=None)
        try:
            check_team(config.team_spec(), theirs.spec)
        except ValueError as error:
            raise ValueError(f"the checkpoint {path} is of another team: {error}") from error
        order_agents(config, theirs.spec.agents)
        check_same_owners(path, theirs.owners, owners_of_team(config))
        phase = phase_of(policy)
        check_same_network(f"the checkpoint {path}", theirs, self._plan.policy, adapters=phase != "backbone")
        check_phase(path, phase, self._schedule)
        if theirs.spec.agents != self._plan.spec.agents:
            self.cleanup()
            config.freeze()
            self.setup(config)

    def _act_with_what_was_restored(self) -> None:
        self._sampling.drop()
        (phase, *_) = self.learner_group.foreach_learner(lambda learner: learner.phase)
        self._phase = phase.get()
        self._hand_out_weights()

    def print_trainable_parameters(self) -> None:
        """Prints trainable and total parameter counts of the current phase, like PEFT."""
        print(trainable_parameters(self._plan.policy, self._phase))

    def save_policy(self, folder: str | Path) -> Path:
        """Writes the policy as safetensors and JSON files, which are safe to share, for `lorasa_rllib.load_policy`.

        Returns the new folder. Raises ValueError if it exists.
        """
        return save_policy(self._saved(), folder)

    def _saved(self) -> SavedPolicy:
        """The current policy."""
        module = f"{COMPONENT_LEARNER}/{COMPONENT_RL_MODULE}/{MODULE_ID}"
        state = self.learner_group.get_state(components=module)[COMPONENT_LEARNER][COMPONENT_RL_MODULE][MODULE_ID]
        policy = TeamPolicy(self._plan.policy)
        policy.load_state_dict({name.removeprefix("policy."): torch.as_tensor(w) for name, w in state.items()})
        return saved(policy, origin_of(self.config, self._env_steps()))

    @override(PPO)
    def save_to_path(self, path: str | Path | None = None, *, filesystem: object = None, **kwargs: object) -> str:
        """Writes a checkpoint, including the policy files, and returns its path.

        path: a relative or absolute path, or a URI; None: a temporary folder.
        """
        if filesystem is None and "://" not in str(path):
            path = Path(tempfile.mkdtemp(prefix="checkpoint_") if path is None else path).expanduser().absolute()
            written = str(super().save_to_path(str(path), **kwargs))
            seal(path, self._saved())
            return written
        if filesystem is None:
            filesystem, path = FileSystem.from_uri(str(path))
        with tempfile.TemporaryDirectory(prefix="lorasa_checkpoint_") as here:
            self.save_to_path(here, **kwargs)
            copy_files(here, str(path), destination_filesystem=filesystem)
        return str(path)

    @classmethod
    @override(PPO)
    def from_checkpoint(cls, path: str | Path, filesystem: object = None, **kwargs: object) -> Self:
        """Builds the saved algorithm. path: a local path or URI of a checkpoint, or of a trial (its last checkpoint).

        config: replaces the saved settings, for example to use fewer env runners. Raises MissingCode if the saved ones
        need a class or module that cannot be imported.
        """
        with on_this_machine(path, filesystem) as here:
            here = checkpoint_at(here)
            if "config" not in kwargs:
                config_of_checkpoint(here)  # if this fails, RLlib would silently build the default config
            return super().from_checkpoint(str(here.absolute()), **kwargs)

    # RLlib's old API

    @override(PPO)
    def compute_single_action(self, *args: object, **kwargs: object) -> NoReturn:
        raise NotImplementedError(ACTING)

    @override(PPO)
    def compute_actions(self, *args: object, **kwargs: object) -> NoReturn:
        raise NotImplementedError(ACTING)

    @override(PPO)
    def get_policy(self, *args: object, **kwargs: object) -> NoReturn:
        raise NotImplementedError(ACTING)


def _fault_of(runner: TeamEnvRunner) -> tuple[int, Fault | None]:
    return runner.worker_index, runner.fault


def _as_config(given: Any, default: TeamConfig) -> TeamConfig:
    """The config given in any form RLlib allows: None, an object, its state, or a dictionary of settings."""
    if given is None or isinstance(given, TeamConfig):
        return default if given is None else given
    settings = given if isinstance(given, dict) else given.to_dict()
    return default.from_state(settings) if "class" in settings else default.update_from_dict(settings)


def _in_order_of_source(config: TeamConfig) -> TeamConfig:
    """A copy with agents ordered as in the policy it starts from (others last); the config itself if there is none."""
    source = config.fork_from or config.backbone
    if source is None:
        return config
    network_of(config)  # so that an encoder in the files is known
    try:
        theirs = read_trained(source).config.spec.agents
    except ValueError:
        return config  # reading the weights later raises this error
    own = config.team_spec().agents
    ordered = config.copy(copy_frozen=False)
    order_agents(ordered, [a for a in theirs if a in own] + [a for a in own if a not in theirs])
    ordered.freeze()
    return ordered
