"""The part of a config that says how agents share weights: method, adapters, phases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from ray.rllib.algorithms.algorithm_config import NotProvided
from ray.rllib.algorithms.ppo.ppo import PPOConfig
from ray.rllib.utils.annotations import override

from lorasa_rllib.envs.base import VectorTeamEnv, Worker
from lorasa_rllib.envs.keyed import KeyedTeam, with_roles
from lorasa_rllib.envs.known_team import KnownTeam
from lorasa_rllib.learning.phases import PhaseSchedule, Schedule, usual_schedule
from lorasa_rllib.nn.bank import LoRAConfig
from lorasa_rllib.rllib.collector import first_seed
from lorasa_rllib.rllib.keywords import knows_its_keywords
from lorasa_rllib.rllib.user_envs import GAMES, game_of, is_team_env
from lorasa_rllib.sharing.methods import owners_of, takes
from lorasa_rllib.spec import Owners, TeamSpec


class SharingConfig(PPOConfig):
    """What `.sharing(...)` sets, and what follows from it: the team, its owner table, the adapters, the phases."""

    def __init__(self, algo_class: type | None = None):
        super().__init__(algo_class=algo_class)
        self.known_team: KnownTeam | None = None
        self.env: Any = None
        self.sharing_method = "lora"
        self.sharing_schedule: str | None = None
        self.sharing_adapter_key: Any = "agent"
        self.sharing_num_adapters: int | None = None
        self.sharing_groups: Any = None
        self.total_env_steps: int | None = None
        self.phase_switch: int | float | str | None = None
        self.backbone_checkpoint: str | None = None
        self.adapter_files: Any = None
        self.fork_checkpoint: str | None = None
        self.adapter_lr_scale: float | None = None
        self.lora_r = 8
        self.lora_alpha = 8.0
        self.lora_use_rslora = False
        self.lora_init_weights = "lorasa"
        self.lora_target_modules: tuple[str, ...] = ("*",)
        self.lora_rank_pattern: dict[str, int] = {}
        self.lora_adapt_bias = self.lora_adapt_norm = False

    @override(PPOConfig)
    def environment(self, env: Any = NotProvided, *, env_config: dict[str, Any] = NotProvided, **kwargs: Any) -> Self:  # type: ignore[override]
        """Sets the environment. Returns this config.

        Args:
            env: a name of `envs.registry.ENVIRONMENTS`, or a `VectorTeamEnv` class. Or an environment of one team as
                RLlib and PettingZoo have them, which becomes "pettingzoo" with `env_config={"env": ...}`: a class or
                function that makes it, a name of `ray.tune.register_env`, a module or "module:name".
            env_config: settings of the environment. Those of a `MultiAgentEnv`, and of a function that takes one
                argument, are handed over as one dictionary, those of a `ParallelEnv` by their names.
        """
        if env is not NotProvided and env != self.env and self.env == GAMES:
            self.env_config.pop("env", None)  # of the environment before
        super().environment(env, env_config=env_config, **kwargs)
        if self.env is not None and not is_team_env(self.env):
            if "env" in self.env_config:
                raise ValueError(
                    f"env_config has a setting 'env', but the environment is {self.env!r} already; give that setting "
                    "another name, or hand over a function that sets it."
                )
            self.env_config["env"] = game_of(self.env)
            self.env = GAMES
        return self

    @override(PPOConfig)
    def build_algo(self, env: Any = None, use_copy: bool = True) -> Any:
        """The algorithm. env: see `environment`."""
        if env is not None:
            self.environment(env)
        return super().build_algo(use_copy=use_copy)

    @knows_its_keywords()
    def sharing(
        self,
        method: str = NotProvided,
        *,
        schedule: str | None = NotProvided,
        total_env_steps: int | None = NotProvided,
        phase_switch: int | float | str | None = NotProvided,
        adapter_key: Any = NotProvided,
        num_adapters: int | None = NotProvided,
        groups: Any = NotProvided,
        r: int = NotProvided,
        lora_alpha: float = NotProvided,
        use_rslora: bool = NotProvided,
        init_lora_weights: str = NotProvided,
        target_modules: tuple[str, ...] = NotProvided,
        rank_pattern: dict[str, int] = NotProvided,
        adapt_bias: bool = NotProvided,
        adapt_norm: bool = NotProvided,
        adapter_lr_scale: float | None = NotProvided,
        backbone: str | None = NotProvided,
        adapters: Any = NotProvided,
        fork_from: str | None = NotProvided,
    ) -> Self:
        """How agents share weights. Returns this config.

        Args:
            method: a key of `lorasa_rllib.sharing.methods.METHODS`. "ps": one policy. "nps": an actor and a critic for
                each agent. "mtl": one trunk, a head for each agent. "seps": an actor for each group of agents. "lora":
                LoRASA, one backbone and an adapter for each agent. "seps_lora": adapters on a backbone for each group.
            schedule: "two_phase": the backbone trains first, then freezes and the adapters train. "joint": both train
                from the start. None: two phases where `total_env_steps` or `phase_switch` says when the second one
                begins, else joint.
            total_env_steps: budget of the run, summed over environments. Only a fraction as `phase_switch` and
                "linear" rates need it; stopping a run is up to the caller (`stop=` of Tune).
            phase_switch: environment steps (int) or fraction of the budget (float) after which the adapters begin, or
                "auto": when the return rises at half its fastest rate (`learning.auto_switch` has the rule). None:
                after 0.3 of the budget.
            adapter_key: whose adapter a row uses. "agent": each agent its own. "role": that of the agent's role (unit
                type ...), a whole number which the environment gives at every step; -1 and roles beyond the bank use
                the plain backbone. A table, as sequence or by agent's name: agents that share adapters, from 0. A
                function from `TeamStep` to whole numbers [E, N]: roles of your own; needs `num_adapters`.
            num_adapters: size of the bank of adapters; None: as many as agents, roles or the table use.
            groups: of SePS, a number from 0 for every agent, as a sequence in the team's order or by name. None: found
                when the algorithm is built, from a random rollout; checkpoints keep them.
            r: adapter rank. Raised: more freedom per agent; adapter parameters grow in proportion.
            lora_alpha: adapter outputs are scaled by lora_alpha / r.
            use_rslora: scale by lora_alpha / sqrt(r) instead.
            init_lora_weights: "peft" or "lorasa", which factor starts at zero. See `nn.bank.LoRAConfig`.
            target_modules: patterns of the adapted layers.
            rank_pattern: rank of layers that match a pattern.
            adapt_bias, adapt_norm: adapters have biases, and gains and offsets of LayerNorms, too. Not as published.
            adapter_lr_scale: learning rate of the adapters as a multiple of `lr`. None: 3 in the adapter phase of two,
                where adapters alone must move the policy, and 1 in joint training.
            backbone: path (or URI, s3://...) of a checkpoint of this package or of a policy's files, whose backbone,
                critic and normaliser this run starts from; with `phase_switch=0` training starts in the adapter phase.
                Files without a critic give the actor alone, also to a team with more agents.
            adapters: where the adapters start from: a checkpoint or a policy's files, each from that of the same name;
                or name -> folder of one adapter, such as {"scout": "policy/adapters/front"}. The rest start plain.
                Adapters must train from the start: `phase_switch=0` or joint.
            fork_from: path (or URI) of a checkpoint of a run with the same settings that this run goes on from, with
                its counters and optimisers; only what comes later, such as `phase_switch`, may differ.
        """
        return self._store(
            sharing_method=method,
            sharing_schedule=schedule,
            total_env_steps=total_env_steps,
            phase_switch=phase_switch,
            sharing_adapter_key=adapter_key,
            sharing_num_adapters=num_adapters,
            sharing_groups=groups,
            lora_r=r,
            lora_alpha=lora_alpha,
            lora_use_rslora=use_rslora,
            lora_init_weights=init_lora_weights,
            lora_target_modules=target_modules,
            lora_rank_pattern=rank_pattern,
            lora_adapt_bias=adapt_bias,
            lora_adapt_norm=adapt_norm,
            adapter_lr_scale=adapter_lr_scale,
            backbone_checkpoint=backbone,
            adapter_files=adapters,
            fork_checkpoint=fork_from,
        )

    # What the settings mean

    def team_spec(self) -> TeamSpec:
        """The team of the configured environment.

        Learnt once, and kept with this config wherever it goes, so that every process has the agents in one order: if
        only a copy of the environment can tell, one is built and closed again. Forgotten if the environment changes.
        """
        spec = self.learn_team().spec
        return with_roles(spec, self._num_own_roles()) if self._roles_by_function() else spec

    def worker(self, index: int = 0, recreated: bool = False) -> Worker:
        """One of the env runners, as constructors of environments are told."""
        return Worker(index, self.num_env_runners, self.num_envs_per_env_runner, recreated, self.in_evaluation)

    def learn_team(self, keep: bool = False, worker: Worker | None = None) -> KnownTeam:
        """What `team_spec` is about.

        keep: a copy that has to be built stays open for `make_team_env`. worker: whose it is, None: the driver's.
        """
        known = self.known_team
        if known is None or not known.belongs_to(self.env, self.env_config):
            if known is not None:
                known.seen.close()
            known = KnownTeam.of(self.env, self.env_config, first_seed(self.seed), keep, worker or self.worker())
            self._know(known)
        return known

    def order_agents(self, agents: Sequence[str]) -> None:
        """Lets the team have its agents in another order, that of a checkpoint, say.

        Tables by position (`groups`, `adapter_key`) become tables by name. Raises ValueError for other names.
        """
        known = self.learn_team()
        if known.spec.agents == tuple(agents):
            return
        for table in ("sharing_groups", "sharing_adapter_key"):
            given = getattr(self, table)
            if isinstance(given, Sequence) and not isinstance(given, str) and len(given) == len(known.spec.agents):
                setattr(self, table, dict(zip(known.spec.agents, given, strict=True)))
        self._know(known.in_order(agents))

    def make_team_env(self, seed: int | None = None, worker: Worker | None = None) -> VectorTeamEnv:
        """The environments of one env runner, None: the driver's. seed: the one that their first `reset` will have."""
        worker = worker or self.worker()
        env = self.learn_team(True, worker).environments(self.num_envs_per_env_runner, seed, worker)
        return KeyedTeam(env, self.sharing_adapter_key, self._num_own_roles()) if self._roles_by_function() else env

    def _know(self, known: KnownTeam) -> None:
        self.__dict__["known_team"] = known  # no setting: it follows from them, also where they are frozen

    def _roles_by_function(self) -> bool:
        return callable(self.sharing_adapter_key)

    def _num_own_roles(self) -> int:
        if self.sharing_num_adapters is None:
            raise ValueError("adapter_key is a function: set num_adapters to the number of adapters it chooses from.")
        return self.sharing_num_adapters

    @property
    def needs_groups(self) -> bool:
        """Whether the sharing method has groups that are still to be found."""
        return self.sharing_groups is None and "groups" in takes(self.sharing_method)

    def owners(self) -> Owners:
        """The owner table of the sharing method."""
        key = "role" if self._roles_by_function() else self.sharing_adapter_key
        return owners_of(
            self.sharing_method,
            self.team_spec(),
            adapter_key=None if key == "agent" else key,
            num_adapters=self.sharing_num_adapters,
            groups=self.sharing_groups,
        )

    def schedule(self) -> Schedule:
        """The schedule that was set, or the usual one."""
        return self.sharing_schedule or usual_schedule(self.total_env_steps, self.phase_switch)  # type: ignore[return-value]

    def phase_schedule(self) -> PhaseSchedule:
        return PhaseSchedule(
            self.schedule(),
            self.total_env_steps,
            self.phase_switch,  # type: ignore[arg-type]
            has_adapters=self.owners().num_adapters > 0,
        )

    def lora(self) -> LoRAConfig:
        """Size and placement of the adapters."""
        targets: Any = self.lora_target_modules
        return LoRAConfig(
            r=self.lora_r,
            lora_alpha=self.lora_alpha,
            use_rslora=self.lora_use_rslora,
            init_lora_weights=self.lora_init_weights,  # type: ignore[arg-type]
            target_modules=(targets,) if isinstance(targets, str) else tuple(targets),
            rank_pattern=dict(self.lora_rank_pattern),
            adapt_bias=self.lora_adapt_bias,
            adapt_norm=self.lora_adapt_norm,
        )

    def _store(self, **settings: Any) -> Self:
        for name, value in settings.items():
            if value is not NotProvided:
                setattr(self, name, value)
        return self
