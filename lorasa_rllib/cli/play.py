"""`lorasa evaluate`, `lorasa render` and `lorasa export`."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from lorasa_rllib.cli.output import AsJSON, complain, progress, say, show, table
from lorasa_rllib.studies.terminal import three_figures

WHAT = (
    "Policy files, or a checkpoint, or a trial's folder (its last checkpoint); a path or URI. Checkpoints of older "
    "versions hold only pickles, which run code when they are read: they need --trust."
)
Policy = Annotated[str, typer.Argument(help=WHAT)]
Trust = Annotated[
    bool,
    typer.Option("--trust", help="Run code that comes with files: pickles of checkpoints, modules of environments."),
]
Seed = Annotated[int, typer.Option(min=0, help="Of environments and sampled actions.")]
ENVIRONMENT = "Settings of the environment: --env max_episode_steps=200; or another one: --env module:Class."
Changes = Annotated[list[str], typer.Option("--env", help=ENVIRONMENT)]
Sampled = Annotated[bool, typer.Option("--sampled", help="Draw actions from the policy instead of the likeliest.")]


def evaluate(
    checkpoint: Policy,
    episodes: Annotated[int, typer.Option(min=1, help="Episodes to play.")] = 32,
    sampled: Sampled = False,
    seed: Seed = 0,
    num_envs: Annotated[int, typer.Option(min=1, help="Copies that are played side by side.")] = 8,
    patience: Annotated[float, typer.Option(min=0, help="Seconds to wait for an episode to end.")] = 120.0,
    env: Changes = [],  # noqa: B006 - never changed
    trust: Trust = False,
    as_json: AsJSON = False,
) -> None:
    """Evaluates a policy in the environment it was trained in: returns (and win rates) with 95 % intervals.

    Ctrl-C stops early and reports the episodes played so far. Policy files (lorasa adapters export) from others are
    safe to use, as long as you leave --trust out.

    [bold]Examples[/bold]

      lorasa evaluate ~/lorasa_results/NAME/TRIAL

      lorasa evaluate policy --episodes 100 --sampled --seed 7 --json
    """
    from lorasa_rllib.policies.acting import LoadedPolicy
    from lorasa_rllib.rollout.episodes import EpisodeSummary
    from lorasa_rllib.studies import playing

    saved, trained_in = _trained(checkpoint, trust)
    environment, changes = _chosen(trained_in, env)
    team = playing.environment_of(saved, min(num_envs, episodes), changes, environment=environment)
    played: list[EpisodeSummary] = []
    interrupted = False
    try:
        with progress() as bar:
            task = bar.add_task("episodes", total=episodes)

            def watch(episode: EpisodeSummary) -> None:
                played.append(episode)
                bar.advance(task)

            playing.episodes(team, LoadedPolicy(saved), episodes, not sampled, seed, patience, watch)
    except KeyboardInterrupt:
        interrupted = True
        complain(f"interrupted after {len(played)} of {episodes} episodes")
    finally:
        team.close()
    found = {"policy": str(checkpoint), "actions": "sampled" if sampled else "greedy", "seed": seed}
    found |= playing.statistics(played)
    if as_json:
        show(found)
    else:
        how = "Student's t; 10 episodes and more are resampled" if len(played) < playing.FEW else "by resampling"
        note = f"Intervals hold the mean with 95 % (returns: {how})."
        table(f"{environment.name}: {checkpoint}", [_row(found)], note)
    if interrupted:
        raise typer.Exit(130)


def render(
    checkpoint: Policy,
    out: Annotated[Path, typer.Option("--out", "-o", help="The film, .mp4 or .gif.")] = Path("team.mp4"),
    steps: Annotated[int, typer.Option(min=1, help="Environment steps at most; an episode's end ends the film.")] = 300,
    fps: Annotated[int, typer.Option(min=1, help="Pictures per second.")] = 25,
    sampled: Sampled = False,
    seed: Seed = 0,
    env: Changes = [],  # noqa: B006 - never changed
    trust: Trust = False,
    as_json: AsJSON = False,
) -> None:
    """Renders an episode to a video file, without a display: MuJoCo, SMAX, and PettingZoo environments that can render.

    .mp4 needs the extra \\[video], .gif nothing. MuJoCo renders through EGL unless MUJOCO_GL is set (osmesa).

    [bold]Examples[/bold]

      lorasa render ~/lorasa_results/NAME/TRIAL -o team.mp4

      lorasa render policy -o team.gif --steps 100 --fps 15
    """
    os.environ.setdefault("MUJOCO_GL", "egl")
    from lorasa_rllib.policies.acting import LoadedPolicy
    from lorasa_rllib.studies import playing

    (saved, trained_in), out = _trained(checkpoint, trust), out.expanduser()
    environment, changes = _chosen(trained_in, env)
    team = playing.environment_of(saved, 1, changes, rendered=True, environment=environment)
    try:
        with progress() as bar:
            task = bar.add_task("pictures", total=steps)
            shown = lambda step: bar.update(task, completed=step)  # noqa: E731
            pictures, interrupted = playing.record(team, LoadedPolicy(saved), out, steps, fps, not sampled, seed, shown)
    finally:
        team.close()
    if as_json:
        show({"film": str(out), "pictures": pictures, "interrupted": interrupted})
    else:
        say(f"{out}: {pictures} pictures")
    if interrupted:
        complain("interrupted: the film is shorter")
        raise typer.Exit(130)


def export(
    checkpoint: Policy,
    agent: Annotated[str, typer.Option(help="Whose policy.")],
    out: Annotated[Path, typer.Option("--out", "-o", help=".onnx, or .pt2 (torch.export).")],
    role: Annotated[int | None, typer.Option(help="The role it keeps, where adapters are keyed by role.")] = None,
    mask: Annotated[bool, typer.Option("--mask", help="Take a mask also if the first reset gave none.")] = False,
    trust: Trust = False,
    as_json: AsJSON = False,
) -> None:
    """Exports one agent's greedy policy as a plain network, adapters merged: ONNX (checked with onnxruntime) or .pt2.

    [bold]Examples[/bold]

      lorasa export policy --agent agent_0 -o agent_0.onnx

      lorasa export ~/lorasa_results/NAME/TRIAL --agent ally_0 --role 2 -o stalker.pt2
    """
    from lorasa_rllib.policies.exporting import AgentNetwork, export_onnx, export_program

    writers = {".onnx": export_onnx, ".pt2": export_program}
    if out.suffix not in writers:
        raise ValueError(f"{out.name} must end in .onnx or .pt2.")
    saved = _read(checkpoint, trust)
    _check_roles(saved, [] if role is None else [role])
    network = AgentNetwork(saved, agent, role, masked=mask or None)
    path = writers[out.suffix](network, out)
    if as_json:
        show({"file": str(path), "inputs": network.inputs(), "outputs": network.outputs()})
    else:
        say(f"{path}: {', '.join(network.inputs())} -> {', '.join(network.outputs())}")


def _read(path: str, trust: bool = False) -> Any:
    """Reads the policy at a path or URI. trust: as in `rllib.checkpoints.read_trained`."""
    from lorasa_rllib.policies.folder import policy_files, read_policy
    from lorasa_rllib.studies.modules import import_from_here

    if trust:
        import_from_here()
    if "://" not in path and policy_files(path):
        return read_policy(path, trust)  # without Ray
    from lorasa_rllib.rllib.checkpoints import read_trained

    return read_trained(path, trust)


def _trained(path: str, trust: bool = False) -> tuple[Any, Any]:
    """Reads the policy at a path or URI. Returns it with the `Environment` it was trained in."""
    from lorasa_rllib.studies.playing import Environment

    saved = _read(path, trust)
    origin = saved.origin
    if not trust or origin.environment is not None:
        return saved, Environment(origin.environment, origin.env_config, trust)
    from lorasa_rllib.rllib.checkpoints import ALGORITHM, MissingCode, config_of_checkpoint, last_checkpoint
    from lorasa_rllib.rllib.storage import on_this_machine
    from lorasa_rllib.studies.modules import import_from_here

    import_from_here()
    with on_this_machine(path) as here:
        checkpoint = last_checkpoint(here) or here
        if not (checkpoint / ALGORITHM).is_file():  # only an RLModule, without a config
            return saved, Environment(None, {})
        try:
            config = config_of_checkpoint(checkpoint)
        except MissingCode as error:
            return saved, Environment(None, {}, trusted=True, why=str(error))
        return saved, Environment(config.env, dict(config.env_config), trusted=True)


def _check_roles(saved: Any, roles: list[int]) -> None:
    """Raises ValueError for roles without an adapter: valid in code (plain backbone), but a typo on a command line."""
    adapters = saved.config.owners.num_adapters
    if saved.config.owners.by_role and (wrong := [k for k in roles if not -1 <= k < adapters]):
        raise ValueError(f"roles {wrong} must lie between -1 (the plain backbone) and {adapters - 1}.")


def _chosen(environment: Any, given: list[str]) -> tuple[Any, dict[str, Any]]:
    """The environment and the settings to change, as given by --env: module:Class, or name=value."""
    from lorasa_rllib.studies.literals import literal

    changes = {}
    for text in given:
        name, equals, value = text.partition("=")
        if equals:
            changes[name] = literal(value)
        elif re.fullmatch(r"[\w.]+:[\w.]+", text):
            environment = environment.called(text)
        else:
            raise ValueError(f"--env {text} must be name=value, or module:Class.")
    return environment, changes


def _row(found: dict[str, Any]) -> dict[str, Any]:
    """The statistics of an evaluation as a table row."""
    row = {"actions": found["actions"], "episodes": found.get("episodes", 0)}
    if "return_mean" in found:
        row |= {"return": three_figures(found["return_mean"])}
        if found["return_interval"] is not None:
            low, high = found["return_interval"]
            row |= {"95 % interval": f"{three_figures(low)} to {three_figures(high)}"}
        row |= {"lowest": found["return_min"], "highest": found["return_max"], "length": found["length_mean"]}
    if "win_rate" in found:
        low, high = found["win_rate_interval"]
        row |= {"won": f"{found['win_rate']:.0%}", "95 % interval ": f"{low:.0%} to {high:.0%}"}
    return row
