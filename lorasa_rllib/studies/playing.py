"""Trained policies in their environments: evaluation, and pictures. Neither needs Ray."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lorasa_rllib.envs.base import VectorTeamEnv
from lorasa_rllib.envs.registry import environment_class, make_environment
from lorasa_rllib.policies.acting import LoadedPolicy
from lorasa_rllib.policies.saved import SavedPolicy

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Episode:
    """team_return: a shared reward counts once, otherwise the sum over agents. won: None where nobody wins."""

    team_return: float
    length: int
    won: bool | None


def environment_of(saved: SavedPolicy, num_envs: int, changes: dict[str, Any], rendered: bool = False) -> VectorTeamEnv:
    """The environments that a policy was trained in, with some settings changed.

    Raises ValueError if the policy does not say which, or if its team is not that of the environment.
    """
    name = saved.origin.environment
    if name is None:
        raise ValueError(
            "this policy does not say which environment it was trained in (a class, or settings that are no plain "
            "data). Use lorasa_rllib.load_policy and step the environment yourself."
        )
    env_config = {**saved.origin.env_config, **changes}
    if rendered:
        env_config = environment_class(name).to_be_rendered(env_config)
    env = make_environment(name, num_envs, env_config)
    for what in ("agents", "obs_sizes", "action_sizes"):
        mine, theirs = getattr(saved.config.spec, what), getattr(env.spec, what)
        if mine != theirs:
            env.close()
            raise ValueError(f"the policy's {what} are {_few(mine)}, those of environment {name!r} {_few(theirs)}.")
    if LoadedPolicy(saved).by_role and not env.spec.num_roles:
        env.close()
        raise ValueError("this policy's roles come from a function: use load_policy, and give act() the roles.")
    return env


def episodes(env: VectorTeamEnv, policy: LoadedPolicy, count: int, greedy: bool, seed: int) -> Iterator[Episode]:
    """Plays `count` episodes, shared out over the copies beforehand, so that short ones are not preferred.

    The same seed gives the same episodes, one number of copies taken for granted.
    """
    quota = [count // env.num_envs + (e < count % env.num_envs) for e in range(env.num_envs)]
    returns, lengths = np.zeros(env.num_envs), np.zeros(env.num_envs, int)
    policy.seed(seed)
    step, state = env.reset(seed), None
    while any(quota):
        actions, state = policy.act(step.obs, state, roles=step.roles, mask=step.masks, greedy=greedy)
        step = env.step(actions)
        returns += step.rewards.sum(-1)
        lengths += 1
        for place, e in enumerate(step.ended.tolist()):
            if quota[e]:
                quota[e] -= 1
                won = None if step.won is None else bool(step.won[place])
                yield Episode(float(returns[e]), int(lengths[e]), won)
        returns[step.ended] = lengths[step.ended] = 0
        if state is not None:
            state[step.ended] = 0.0


def statistics(played: Sequence[Episode]) -> dict[str, Any]:
    """Means with 95 % intervals: bootstrapped (BCa) for returns, Wilson's for win rates. Empty without episodes."""
    if not played:
        return {}
    found = np.array([episode.team_return for episode in played])
    low, high = _interval(found)
    answer: dict[str, Any] = {
        "episodes": len(played),
        "return_mean": float(found.mean()),
        "return_interval": [low, high],
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
) -> int:
    """Films the first copy for so many steps, or one episode if that is shorter. Returns the number of pictures.

    path: .mp4 (needs the extra [video]) or .gif. The file appears when it is whole; an interruption ends the film, and
    what there is of it is kept.
    """
    pictures = 0
    policy.seed(seed)
    with _film(path, fps) as add:
        step, state = env.reset(seed), None
        try:
            for pictures in range(1, steps + 1):
                add(env.render())
                actions, state = policy.act(step.obs, state, roles=step.roles, mask=step.masks, greedy=greedy)
                step = env.step(actions)
                shown(pictures)
                if 0 in step.ended:
                    break
        except KeyboardInterrupt:
            if pictures < 2:
                raise
    return pictures


class _film:
    """A film that is written beside its place, and moved there when it is whole."""

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
                    'films in MP4 need one more package: pip install "lorasa-rllib[video]"; or write a .gif.'
                ) from error
            self._writer: Any = imageio.get_writer(self._part, fps=self._fps, macro_block_size=8)
        else:
            self._writer = imageio.get_writer(self._part, mode="I", duration=1000 / self._fps, loop=0)
        return self._writer.append_data

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._writer.close()
        if kind is None:
            self._part.replace(self._path)
        self._part.unlink(missing_ok=True)


def _interval(values: np.ndarray) -> tuple[float, float]:
    if len(values) < 2 or np.ptp(values) == 0:
        return float(values.min()), float(values.max())
    from scipy.stats import bootstrap

    found = bootstrap((values,), np.mean, confidence_level=CONFIDENCE, rng=np.random.default_rng(0)).confidence_interval
    return float(found.low), float(found.high)


def _few(names: Sequence[Any]) -> str:
    return f"{', '.join(map(str, names[:6]))}{' ...' if len(names) > 6 else ''}"
