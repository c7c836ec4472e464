"""Builds `mamujoco_v1` environments of Gymnasium-Robotics with clear errors, writing no files into its folder."""

from __future__ import annotations

import contextlib
import inspect
import io
import re
import tempfile
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorasa_rllib.envs.settings import flag, number, whole_number
from lorasa_rllib.suggestion import did_you_mean

if TYPE_CHECKING:
    import gymnasium
    from gymnasium_robotics.envs.multiagent_mujoco.mujoco_multi import MultiAgentMujocoEnv

FACTORISATIONS: dict[str, tuple[str, ...]] = {
    "Ant": ("2x4", "2x4d", "4x2"),
    "HalfCheetah": ("2x3", "6x1"),
    "Hopper": ("3x1",),
    "Humanoid": ("9|8",),
    "HumanoidStandup": ("9|8",),
    "Pusher": ("3p",),
    "Reacher": ("2x1",),
    "Swimmer": ("2x1",),
    "Walker2d": ("2x3",),
}
"""Scenario -> valid values of `agent_conf`."""

SEGMENTED = {"ManySegmentAnt": "Ant-v5", "ManySegmentSwimmer": "Swimmer-v5"}
"""Scenarios of arbitrary size (`agent_conf` "<agents>x<segments per agent>") -> the task that they extend."""


LIBRARY_SETTINGS = ("local_categories", "global_categories")
CATEGORIES = ("qpos", "qvel", "qfrc_actuator", "cvel", "cinert", "cfrc_ext", "fingertip_dist")
"""Kinds of numbers that the library can observe; it ignores all other names. (The last one is Reacher's.)"""

SCENARIOS = sorted([*FACTORISATIONS, *SEGMENTED])


def check_names(scenario: str, agent_conf: str | None) -> None:
    """Raises ValueError for a scenario or factorisation that the library does not have."""
    if scenario == "CoupledHalfCheetah":
        raise ValueError(
            "scenario='CoupledHalfCheetah' does not run on mujoco > 3.5 (Gymnasium-Robotics issue 300). "
            f"Choose another of {SCENARIOS}."
        )
    if not isinstance(scenario, str) or (scenario not in FACTORISATIONS and scenario not in SEGMENTED):
        raise ValueError(
            f"scenario={scenario!r} is unknown; choose one of {SCENARIOS} (tasks that cannot be split among agents are "
            "left out)."
        )
    if scenario in SEGMENTED:
        agents, _, segments = str(agent_conf).partition("x")
        if not (agents.isdigit() and segments.isdigit() and int(agents) > 0 and int(segments) > 0):
            raise ValueError(
                f"agent_conf={agent_conf!r} of {scenario} must be '<agents>x<segments per agent>', like '4x2'."
            )
        if int(agents) * int(segments) < 2:
            raise ValueError(f"agent_conf={agent_conf!r} of {scenario} must give at least 2 segments.")
    elif agent_conf is not None and agent_conf not in FACTORISATIONS[scenario]:
        raise ValueError(
            f"agent_conf={agent_conf!r} is not a factorisation of {scenario}; choose one of "
            f"{list(FACTORISATIONS[scenario])}, or None for a single agent."
        )


def check_categories(options: Mapping[str, Any], agent_obsk: int) -> None:
    """Raises ValueError for `local_categories` and `global_categories` that the library would ignore or trip over."""
    for name in (name for name in LIBRARY_SETTINGS if options.get(name) is not None):
        local, given = name == "local_categories", options[name]
        lists = given if local else [given]
        form = "a list of lists, one for each distance in joints" if local else "a list"
        if not (_is_list(given) and all(map(_is_list, lists))):
            raise ValueError(f"{name}={given!r} must be {form}, of {list(CATEGORIES)}.")
        if local and len(lists) <= agent_obsk:
            raise ValueError(
                f"{name}={given!r} must have {agent_obsk + 1} lists, one for each distance from 0 to "
                f"agent_obsk={agent_obsk} joints."
            )
        if unknown := [category for each in lists for category in each if category not in CATEGORIES]:
            meant = did_you_mean(str(unknown[0]), CATEGORIES)
            raise ValueError(f"{name}: {unknown[0]!r} is unknown{meant} Choose among {list(CATEGORIES)}.")


def check_task_options(scenario: str, options: Mapping[str, object]) -> None:
    """Raises ValueError for options of the Gymnasium task of another kind than its default: numbers, flags, text."""
    for name, parameter in _parameters_of(task_of(scenario)).items():
        default = parameter.default
        if name not in options or default is None:
            continue
        if isinstance(default, bool):
            flag(name, options[name])
        elif name == "frame_skip":
            whole_number(name, options[name], 1)
        elif isinstance(default, int | float):
            number(name, options[name])
        elif isinstance(default, str) and not isinstance(options[name], str):
            raise ValueError(f"{name}={options[name]!r} must be text, such as {default!r}.")


def _is_list(given: object) -> bool:
    return isinstance(given, Sequence) and not isinstance(given, str)


def make_library_environment(
    scenario: str, agent_conf: str | None, agent_obsk: int | None, /, **options: object
) -> MultiAgentMujocoEnv:
    """Builds a `mamujoco_v1.parallel_env`. Raises ValueError for unknown names, ImportError without the package."""
    check_names(scenario, agent_conf)
    check_categories(options, agent_obsk or 0)
    with _quietly():
        try:
            from gymnasium_robotics import mamujoco_v1
        except ImportError as error:
            raise ImportError(
                'environment "mamujoco" needs gymnasium-robotics and mujoco. '
                'Run: pip install "gymnasium-robotics>=1.4" mujoco'
            ) from error
        check_task_options(scenario, options)
        library: dict[str, object] = {name: options.pop(name) for name in LIBRARY_SETTINGS if name in options}
        if scenario in SEGMENTED:
            library["gym_env"] = _segmented(scenario, str(agent_conf), options)
            options = {}
        try:
            env = mamujoco_v1.parallel_env(scenario, agent_conf, agent_obsk=agent_obsk, **library, **options)
        except IndexError as problem:
            left_out = [name for name, value in options.items() if name.startswith("include_") and value is False]
            if not left_out or "local_categories" in library:
                raise
            raise ValueError(
                f"{' and '.join(left_out)}=False leaves out what agents observe by default. Say what they observe "
                'instead, such as local_categories=[["qpos", "qvel"], ["qpos"]].'
            ) from problem
    for joints_at in getattr(env, "k_dicts", []):
        # The library sorts sets of joints by label. Two joints of Pusher share a label, so their order would differ
        # between processes.
        for distance, joints in joints_at.items():
            joints_at[distance] = sorted(joints, key=lambda joint: (joint.label, joint.act_ids or 0))
    return env


def unknown_setting(scenario: str, options: Collection[str], ours: Collection[str], problem: TypeError) -> str | None:
    """Error message if `problem` was caused by one of `options` that the task does not accept; otherwise None.

    ours: settings that are not passed to the library.
    """
    named = re.search(r"unexpected keyword argument '(\w+)'", str(problem))
    if named is None or named[1] not in options:
        return None
    task = task_of(scenario)
    theirs = [*LIBRARY_SETTINGS, "render_mode", *(name for name in _parameters_of(task) if name != "kwargs")]
    return (
        f"env_config has the unknown setting {named[1]!r}{did_you_mean(named[1], [*ours, *theirs])} "
        f"Settings of the environment are {', '.join(ours)}; those handed on to the library and to {task} are "
        f"{', '.join(theirs)}."
    )


def task_of(scenario: str) -> str:
    """Name of the Gymnasium task behind a scenario."""
    return SEGMENTED.get(scenario, f"{scenario}-v5")


def _parameters_of(task: str) -> Mapping[str, inspect.Parameter]:
    import gymnasium
    from gymnasium.envs.registration import load_env_creator

    entry = gymnasium.spec(task).entry_point
    creator = load_env_creator(entry) if isinstance(entry, str) else entry
    return inspect.signature(creator).parameters if creator else {}


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Suppresses messages about other environments and about the tasks' model files during loading."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            import mujoco
        except ImportError:  # reported by the caller
            yield
            return
        usual = mujoco.get_mju_user_warning()
        mujoco.set_mju_user_warning(lambda message: None)
        try:
            yield
        finally:
            mujoco.set_mju_user_warning(usual)


def _segmented(scenario: str, agent_conf: str, options: dict[str, Any]) -> gymnasium.Env:
    """The single-agent task of a segmented scenario, built from a temporary model file.

    The library would write a shared file into its own folder and delete it, which races between concurrent env runners
    and fails in read-only installations.
    """
    import gymnasium
    from gymnasium_robotics.envs.multiagent_mujoco import many_segment_ant, many_segment_swimmer

    agents, segments = map(int, agent_conf.split("x"))
    generate = (many_segment_ant if scenario == "ManySegmentAnt" else many_segment_swimmer).gen_asset
    with tempfile.TemporaryDirectory(prefix="mamujoco-") as folder:
        path = Path(folder) / "model.xml"
        generate(n_segs=agents * segments, asset_path=str(path))
        return gymnasium.make(SEGMENTED[scenario], xml_file=str(path), **options)
