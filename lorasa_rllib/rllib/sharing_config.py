"""The part of a config that determines how agents share weights: method, adapters, phases."""

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
    """Settings of `.environment(...)` and `.sharing(...)`, and what follows: team, owners, adapters, phases."""

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
            env: a key of `envs.registry.ENVIRONMENTS`, or a `VectorTeamEnv` class. Or an RLlib or PettingZoo
                environment, which is stored as "pettingzoo" with `env_config={"env": ...}`: a class or function that
                builds it, a name registered with `ray.tune.register_env`, a module or "module:name".
            env_config: settings of the environment. A `MultiAgentEnv` class, or a function with one argument, receives
                them as one dictionary; anything else as keyword arguments.
        """
        if env is not NotProvided and env != self.env and self.env == GAMES:
            self.env_config.pop("env", None)  # belongs to the previous environment
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
        """Builds the algorithm. env: see `environment`."""
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
        """Sets how agents share weights. Returns this config.

        Args:
            method: a key of `lorasa_rllib.sharing.methods.METHODS`. "ps": one policy. "nps": an actor and a critic per
                agent. "mtl": one trunk, a head per agent. "seps": an actor per group of agents. "lora": LoRASA, one
                backbone and an adapter per agent. "seps_lora": a backbone per group and adapters.
            schedule: "two_phase": the backbone trains first, then is frozen while the adapters train. "joint": both
                train from the start. None: "two_phase" if `total_env_steps` or `phase_switch` is set, else "joint".
            total_env_steps: budget of the run, summed over environments. Required by "linear" rates, and by two-phase
                training unless `phase_switch` is a number of steps; if set, the default learning rate decays over it.
                Does not stop the run (use `stop=` of Tune).
            phase_switch: environment steps (int) or fraction of the budget (float) after which the adapter phase
                begins, or "auto": once the return rises at less than half its fastest rate (`learning.auto_switch`).
                None: after 0.3 of the budget.
            adapter_key: which adapter a row uses. "agent": one per agent. "role": that of the agent's role (unit type
                ...), an integer that the environment returns at every step; -1 and roles beyond the bank use the plain
                backbone. A table, as a sequence or by agent name: adapter indices from 0, equal for agents that share
                one. A function from `TeamStep` to integers [E, N]: custom roles; needs `num_adapters`.
            num_adapters: size of the adapter bank; None: as many as the agents, roles or table use.
            groups: groups for SePS, an index from 0 per agent, as a sequence in the team's order or by name. None:
                found from a random rollout when the algorithm is built; checkpoints store them.
            r: adapter rank. Higher ranks give agents more freedom; adapter parameters grow in proportion.
            lora_alpha: adapter outputs are scaled by lora_alpha / r.
            use_rslora: scale by lora_alpha / sqrt(r) instead.
            init_lora_weights: "peft" or "lorasa", which factor is initialised to zero. See `nn.bank.LoRAConfig`.
            target_modules: patterns of the layers to adapt.
            rank_pattern: ranks of layers that match a pattern, instead of `r`.
            adapt_bias, adapt_norm: also adapt biases, or gains and offsets of LayerNorms. Not as published.
            adapter_lr_scale: learning rate of the adapters as a multiple of `lr`. None: 3 in two-phase training, where
                the adapters alone must change the policy, and 1 in joint training.
            backbone: path (or URI, s3://...) of a checkpoint of this package or a policy's files, whose backbone,
                critic and normalisers initialise this run; with `phase_switch=0` training starts in the adapter phase.
                Files without a critic initialise the actor only, and may be from a smaller team.
            adapters: what the adapters are initialised from: a checkpoint or a policy's files, matched by name; or
                name -> folder of one adapter, such as {"scout": "policy/adapters/front"}. Others start with no effect.
                Adapters must train from the start: `phase_switch=0` or joint.
            fork_from: path (or URI) of a checkpoint of a run with the same settings that this run continues, including
                counters and optimisers; only settings that take effect later, such as `phase_switch`, may differ.
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

    # Values derived from the settings

    def team_spec(self) -> TeamSpec:
        """The team of the configured environment.

        Determined once, by building and closing a copy of the environment if necessary, and stored with this config and
        its copies, so that all processes use the same order of agents. Reset if the environment changes.
        """
        spec = self.learn_team().spec
        return with_roles(spec, self._num_own_roles()) if self._roles_by_function() else spec

    def worker(self, index: int = 0, recreated: bool = False) -> Worker:
        """Description of env runner `index` for constructors of environments."""
        return Worker(index, self.num_env_runners, self.num_envs_per_env_runner, recreated, self.in_evaluation)

    def learn_team(self, keep: bool = False, worker: Worker | None = None) -> KnownTeam:
        """The known team behind `team_spec`; determines it if necessary.

        keep: leave a copy that has to be built open for `make_team_env`. worker: its env runner; None: the driver's.
        """
        known = self.known_team
        if known is None or not known.belongs_to(self.env, self.env_config):
            if known is not None:
                known.seen.close()
            known = KnownTeam.of(self.env, self.env_config, first_seed(self.seed), keep, worker or self.worker())
            self._know(known)
        return known

    def order_agents(self, agents: Sequence[str]) -> None:
        """Reorders the agents of the team, for example to the order of a checkpoint.

        Tables by position (`groups`, `adapter_key`) become tables by name. Raises ValueError if the names differ.
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
        """Builds the environments of an env runner (None: the driver's). seed: passed later to their first `reset`."""
        worker = worker or self.worker()
        env = self.learn_team(True, worker).environments(self.num_envs_per_env_runner, seed, worker)
        return KeyedTeam(env, self.sharing_adapter_key, self._num_own_roles()) if self._roles_by_function() else env

    def _know(self, known: KnownTeam) -> None:
        self.__dict__["known_team"] = known  # derived from the settings, not one itself: also set on frozen configs

    def _roles_by_function(self) -> bool:
        return callable(self.sharing_adapter_key)

    def _num_own_roles(self) -> int:
        if self.sharing_num_adapters is None:
            raise ValueError("adapter_key is a function: set num_adapters to the number of adapters it chooses from.")
        return self.sharing_num_adapters

    @property
    def needs_groups(self) -> bool:
        """Whether the sharing method needs groups and none are set."""
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
        """The schedule that was set, or the default one."""
        return self.sharing_schedule or usual_schedule(self.total_env_steps, self.phase_switch)  # type: ignore[return-value]

    def phase_schedule(self) -> PhaseSchedule:
        return PhaseSchedule(
            self.schedule(),
            self.total_env_steps,
            self.phase_switch,  # type: ignore[arg-type]
            has_adapters=self.owners().num_adapters > 0,
        )

    def lora(self) -> LoRAConfig:
        """Rank, scale and placement of the adapters."""
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
