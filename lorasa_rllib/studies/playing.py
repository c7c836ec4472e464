"""Plays trained policies in their environments for evaluation and video, without Ray."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lorasa_rllib.envs.base import VectorTeamEnv
from lorasa_rllib.envs.names import imported
from lorasa_rllib.envs.ordered import ACTING, in_order
from lorasa_rllib.envs.registry import ENVIRONMENTS, environment_class, make_environment
from lorasa_rllib.install import installing
from lorasa_rllib.policies.acting import LoadedPolicy
from lorasa_rllib.policies.saved import SavedPolicy
from lorasa_rllib.rollout.collector import Collector
from lorasa_rllib.rollout.episodes import EndlessEpisode, EpisodeSummary
from lorasa_rllib.rollout.memory import Memory
from lorasa_rllib.studies.modules import import_from_here
from lorasa_rllib.studies.table import half_width

CONFIDENCE = 0.95
FEW = 10
"""Fewer episodes use a t-interval, since bootstrapping so few would mostly reproduce their extremes."""

MANY = 2000
"""More episodes use a t-interval, too: their mean is close to normal, and the time of the bootstrap grows with the
square of their number."""


PETTINGZOO = "pettingzoo"
KNOWN_GAMES = re.compile(r"(mpe2|pettingzoo)\.[\w.]+")
"""Modules that untrusted files may name, because importing them only defines a game."""


@dataclass(frozen=True)
class Environment:
    """The environment of a policy.

    made_by: a registered name, a subclass of `VectorTeamEnv`, an environment of PettingZoo or RLlib (a function or
    class), or "module:qualname" of one of these; None: unknown, for the reason `why`. settings: its `env_config`.
    trusted: whether any named module may be imported, which runs its code.
    """

    made_by: Any
    settings: dict[str, Any]
    trusted: bool = False
    why: str = (
        "this policy does not say which environment it was trained in (a class without a name, or settings that are no "
        "plain data)."
    )

    @property
    def name(self) -> str:
        """Display name for titles and messages."""
        given = self.settings.get("env") if self.made_by == PETTINGZOO else self.made_by
        return str(given) if isinstance(given, str) else getattr(given, "__qualname__", type(given).__name__)

    def called(self, name: str) -> Environment:
        """The environment named by the user, trusted. Keeps the settings, unless the policy was trained in a registered
        environment other than "pettingzoo"."""
        other = self.made_by in ENVIRONMENTS and self.made_by != PETTINGZOO
        kept = {} if other else {key: value for key, value in self.settings.items() if key != "env"}
        return Environment(name, kept, trusted=True)

    def found(self, changes: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Registered name or class, and `env_config` with `changes`. Raises ValueError if unknown or untrusted."""
        made_by, settings = self.made_by, {**self.settings, **changes}
        if made_by is None:
            raise ValueError(
                f"{self.why} Name it: --env module:Class, and --env setting=value; or use lorasa_rllib.load_policy and "
                "step the environment yourself."
            )
        game = settings.get("env") if made_by == PETTINGZOO else made_by
        if trusted := self.trusted or "env" in changes:
            import_from_here()
        if isinstance(game, str) and not (trusted or game in ENVIRONMENTS or KNOWN_GAMES.fullmatch(game)):
            raise ValueError(
                f"these files name the Python module {game!r} as their environment, and importing it runs its code. If "
                "you trust where they come from: --trust."
            )
        if made_by in ENVIRONMENTS:
            return made_by, settings
        if isinstance(made_by, str) and ":" not in made_by:
            raise ValueError(
                f"the policy was trained in {made_by!r}, a name that only the program which trained it knows "
                "(register_env). Name what makes it: --env module:Class."
            )
        made_by = imported(made_by) if isinstance(made_by, str) else made_by
        if isinstance(made_by, type) and issubclass(made_by, VectorTeamEnv):
            return made_by, settings
        return PETTINGZOO, {**settings, "env": made_by}


MOST, LEAST_MOST = 10_000_000, 1000
"""Largest numbers in settings of untrusted files: for `TIME`, and for everything else (larger for large teams)."""

TIME = re.compile(r"steps|cycles|length|horizon|limit|seed")
"""Names of settings that may be large. Any other may set how much is built, or simulated in one step."""


def check_settings(settings: Mapping[str, Any], num_agents: int) -> None:
    """Raises ValueError for environment settings that untrusted files must not contain, such as paths, or sizes beyond
    what the team can need."""
    for name, value in settings.items():
        values = value if isinstance(value, list) else [value]
        most = MOST if TIME.search(name) else max(LEAST_MOST, 4 * num_agents)
        for one in values:
            if isinstance(one, dict):
                check_settings(one, num_agents)
            elif isinstance(one, int | float) and abs(one) > most:
                raise ValueError(
                    f"these files set {name}={one:,} of their environment, and {most:,} is the most. {TRUST}"
                )
            elif isinstance(one, str) and (len(one) > 1000 or re.search(r"[/\\\x00-\x1f]|\.xml$", one)):
                raise ValueError(f"these files set {name} of their environment to a path, {one[:100]!r}. {TRUST}")
            elif isinstance(one, str) and (large := max(_numbers_in(one), default=0)) > most:
                raise ValueError(f"these files set {name}={one!r} of their environment: {large:,} is too much. {TRUST}")
            elif isinstance(one, list):
                check_settings({name: one}, num_agents)


def _numbers_in(text: str) -> list[int]:
    """Whole numbers in a name such as "4x2" or "3s_vs_5z", and what an "x" between two of them makes."""
    products = [int(a) * int(b) for a, b in re.findall(r"(\d+)x(\d+)", text)]
    return [*products, *map(int, re.findall(r"\d+", text))]


TRUST = "If you trust where they come from: --trust."


def environment_of(
    saved: SavedPolicy,
    num_envs: int,
    changes: dict[str, Any],
    rendered: bool = False,
    environment: Environment | None = None,
) -> VectorTeamEnv:
    """Builds `num_envs` copies of the environment that a policy was trained in, with some settings changed.

    environment: None: the one recorded in the policy. Raises ValueError if it is unknown, untrusted, cannot be built or
    has another team.
    """
    environment = environment or Environment(saved.origin.environment, saved.origin.env_config)
    name, env_config = environment.found(changes)
    if not environment.trusted:
        check_settings(environment.settings, saved.config.spec.num_agents)
    try:
        if rendered:
            env_config = environment_class(name).to_be_rendered(env_config)
        if str(env_config.get("device")).startswith("cuda"):  # where it was trained; here the policy acts on the CPU
            env_config = env_config | {"device": "cpu"}
        env = make_environment(name, num_envs, env_config)
    except (ValueError, ImportError):
        raise
    except Exception as error:  # simulators raise various errors for unknown settings
        facts = f"{type(error).__name__}: {error}"
        raise ValueError(f"environment {environment.name!r} cannot be made with {env_config}: {facts}") from error
    try:
        env = in_order(env, saved.config.spec, ACTING, f"environment {environment.name!r}")
    except ValueError:
        env.close()
        raise
    if LoadedPolicy(saved).by_role and not env.spec.num_roles:
        env.close()
        raise ValueError("this policy's roles come from a function: use load_policy, and give act() the roles.")
    return env


def episodes(
    env: VectorTeamEnv,
    policy: LoadedPolicy,
    count: int,
    greedy: bool,
    seed: int,
    patience: float | None = None,
    watch: Callable[[EpisodeSummary], None] = lambda episode: None,
) -> list[EpisodeSummary]:
    """Plays `count` episodes, assigned to the copies in advance so that short episodes are not over-represented.

    The same seed and number of copies give the same episodes. watch: called with each episode as it ends. Raises
    ValueError if an environment fails, or if no episode has ended for `patience` seconds.
    """
    memory = Memory(policy.saved.config, env.num_envs, 1, env.device)
    collector = Collector(env, memory, seed, on_episode_end=lambda episode, slot: watch(episode))
    try:
        return collector.episodes(count, policy.acting, "mode" if greedy else "sample", patience).episodes
    except EndlessEpisode as endless:
        raise EndlessEpisode(
            f"{endless} Give the environment a time limit, such as --env max_episode_steps=1000, or wait longer with "
            "--patience SECONDS."
        ) from None


def statistics(played: Sequence[EpisodeSummary]) -> dict[str, Any]:
    """Means with 95 % intervals. Empty without episodes; a single episode has no interval of its return.

    Intervals of returns: BCa bootstrap, or Student's t for fewer than `FEW` or more than `MANY` episodes; of win rates:
    Wilson.
    """
    if not played:
        return {}
    found = np.array([episode.team_return for episode in played])
    answer: dict[str, Any] = {
        "episodes": len(played),
        "return_mean": float(found.mean()),
        "return_interval": list(_interval(found)) if len(found) > 1 else None,
        "return_min": float(found.min()),
        "return_max": float(found.max()),
        "length_mean": float(np.mean([episode.length for episode in played])),
    }
    if played[0].won is not None:
        from scipy.stats import binomtest

        wins = sum(bool(episode.won) for episode in played)
        interval = binomtest(wins, len(played)).proportion_ci(CONFIDENCE, method="wilson")
        answer |= {"win_rate": wins / len(played), "win_rate_interval": [float(interval.low), float(interval.high)]}
    return answer


def record(
    env: VectorTeamEnv,
    policy: LoadedPolicy,
    path: Path,
    steps: int,
    fps: int,
    greedy: bool,
    seed: int,
    shown: Callable[[int], None] = lambda step: None,
) -> tuple[int, bool]:
    """Records a video of the first copy for `steps` steps or one episode, whichever is shorter.

    path: .mp4 (needs the extra [video]) or .gif, written atomically. Ctrl-C ends the video and keeps the frames so far
    (at least two, otherwise KeyboardInterrupt is raised). Returns the number of frames and whether it was interrupted.
    Raises RuntimeError if rendering fails.
    """
    pictures, interrupted = 0, False
    policy.seed(seed)
    with _film(path, fps) as add:
        step = env.reset(seed).on_host()
        memory = Memory(policy.saved.config, env.num_envs, 1)
        try:
            for pictures in range(1, steps + 1):
                add(_picture(env))
                actions, hidden = policy.choose(
                    step.obs, memory.actor, roles=step.roles, mask=step.masks, greedy=greedy
                )
                if hidden is not None:
                    memory.keep_actor(torch.from_numpy(hidden), torch.from_numpy(step.active))
                step = env.step(actions).on_host()
                shown(pictures)
                if 0 in step.ended:
                    break
        except KeyboardInterrupt:
            interrupted = True
            if pictures < 2:
                raise
    return pictures, interrupted


def _picture(env: VectorTeamEnv) -> np.ndarray:
    try:
        return env.render()
    except (ValueError, ImportError, NotImplementedError):
        raise
    except Exception as error:  # graphics libraries raise various errors
        raise RuntimeError(
            f"drawing failed ({type(error).__name__}: {error}). `lorasa doctor` tells what draws here; MUJOCO_GL=egl "
            "or osmesa chooses."
        ) from error


class _film:
    """Writes a video to a temporary file and moves it to its path when complete."""

    def __init__(self, path: Path, fps: int):
        if path.suffix not in (".mp4", ".gif"):
            raise ValueError(f"{path.name} must end in .mp4 or .gif.")
        self._path, self._fps = path, fps
        self._part = path.parent / f".{path.stem}.{uuid.uuid4().hex[:8]}.partial{path.suffix}"

    def __enter__(self) -> Callable[[np.ndarray], None]:
        import imageio

        self._path.parent.mkdir(parents=True, exist_ok=True)
        if self._path.suffix == ".mp4":
            try:
                import imageio_ffmpeg  # noqa: F401
            except ImportError as error:
                raise ImportError(
                    f"films in MP4 need one more package: {installing('video')}; or write a .gif."
                ) from error
            self._writer: Any = imageio.get_writer(self._part, fps=self._fps, macro_block_size=8)
        else:
            self._writer = imageio.get_writer(self._part, mode="I", duration=1000 / self._fps, loop=0)
        return self._writer.append_data

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._writer.close()
        if kind is None:
            with self._part.open("rb") as film:
                os.fsync(film.fileno())
            self._part.replace(self._path)
        self._part.unlink(missing_ok=True)


def _interval(values: np.ndarray) -> tuple[float, float]:
    if np.ptp(values) == 0:
        return float(values.min()), float(values.max())
    if not FEW <= len(values) <= MANY:
        return float(values.mean() - half_width(values)), float(values.mean() + half_width(values))
    from scipy.stats import bootstrap

    found = bootstrap((values,), np.mean, confidence_level=CONFIDENCE, rng=np.random.default_rng(0)).confidence_interval
    return float(found.low), float(found.high)
