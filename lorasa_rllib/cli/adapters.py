"""`lorasa adapters`: inspects and edits banks of adapters. Every edit writes a new folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lorasa_rllib.cli.output import AsJSON, reporting, say, show, table
from lorasa_rllib.cli.play import Policy, Trust, _check_roles, _read

app = typer.Typer(
    help="Lists, shows, exports, merges and edits adapters. Nothing is overwritten: edits write new folders.",
    no_args_is_help=True,
)
Out = Annotated[Path, typer.Option("--out", "-o", help="The new folder.")]


@app.command("list")
@reporting
def list_(checkpoint: Policy, trust: Trust = False, as_json: AsJSON = False) -> None:
    """Lists the adapters of a policy: their agents, rank, size, and how far each moves the backbone.

    [bold]Examples[/bold]

      lorasa adapters list policy

      lorasa adapters list ~/lorasa_results/NAME/TRIAL --json
    """
    from lorasa_rllib.policies.saved import names_of_adapters

    saved = _read(checkpoint, trust)
    owners, agents, names = saved.config.owners, saved.config.spec.agents, names_of_adapters(saved.config)
    rows = []
    moves = _moves(saved)
    for k, (name, users) in enumerate(zip(names, owners.users(), strict=True)):
        numbers = sum(bank[k].numel() for bank in saved.adapters().values())
        row = {"adapter": name, "agents": ", ".join(agents[n] for n in users), "rank": saved.config.lora.r}
        rows.append(row | {"parameters": numbers, "moves weights by": moves[k]})
    if as_json:
        show({"method": owners.method, "phase": saved.phase, "keyed_by": owners.routed_by, "adapters": rows})
        return
    if not rows:
        say(f"Sharing method {owners.method!r} has no adapters.")
        return
    steps = f"{saved.origin.env_steps:,} environment steps"
    note = f"Moves weights by: |BA| / |W|, Frobenius, all layers. Phase {saved.phase}, {steps}."
    table(f"{checkpoint}: {owners.method}, adapters by {owners.routed_by}", rows, note)


@app.command("show")
@reporting
def show_(
    checkpoint: Policy,
    adapter: Annotated[str, typer.Argument(help="Its name, see `lorasa adapters list`.")],
    trust: Trust = False,
    as_json: AsJSON = False,
) -> None:
    """Shows one adapter layer by layer: shape, norm relative to the backbone, numerical and stable rank.

    [bold]Examples[/bold]

      lorasa adapters show policy agent_0
    """
    import torch

    from lorasa_rllib.policies.adapters import updates_of
    from lorasa_rllib.policies.folder import index_of_adapter

    saved = _read(checkpoint, trust)
    k, rows = index_of_adapter(saved.config, adapter), []
    for layer, updates in updates_of(saved).items():
        weight, values = saved.weights[f"{layer}.weight"], torch.linalg.svdvals(updates[k])
        energy = values.square().cumsum(0) / values.square().sum().clamp(min=1e-30)
        rows.append(
            {
                "layer": layer,
                "shape": " x ".join(map(str, updates[k].shape)),
                "rank": int((values > 1e-6 * values.max().clamp(min=1e-30)).sum()),
                "|BA|": float(values.norm()),
                "|BA| / |W|": float(values.norm() / weight.norm() * len(weight) ** 0.5),
                "stable rank": float(values.square().sum() / values.max().square().clamp(min=1e-30)),
                "in the largest": float(energy[0]),
            }
        )
    note = "In the largest: share of the squared singular values that the largest one holds."
    show({"adapter": adapter, "layers": rows}) if as_json else table(f"{checkpoint}: {adapter}", rows, note)


@app.command()
@reporting
def export(
    checkpoint: Policy,
    out: Out,
    adapter: Annotated[str | None, typer.Option(help="Only this adapter; default: the whole policy.")] = None,
    critic: Annotated[bool, typer.Option(help="Keep the critic, to continue training.")] = True,
    trust: Trust = False,
    as_json: AsJSON = False,
) -> None:
    """Exports a policy, or one adapter, as files that are safe to share: safetensors and JSON, no pickle.

    [bold]Examples[/bold]

      lorasa adapters export ~/lorasa_results/NAME/TRIAL -o policy

      lorasa adapters export policy --adapter agent_0 -o front_leg
    """
    from dataclasses import replace

    from lorasa_rllib.policies.folder import save_adapter, save_policy

    saved = _read(checkpoint, trust)
    if adapter is not None:
        if not critic:
            raise ValueError("--no-critic is for whole policies: an adapter has none.")
        _tell(save_adapter(saved, adapter, out), as_json)
        return
    _tell(save_policy(saved if critic else replace(saved, critic=None), out), as_json)


@app.command()
@reporting
def merge(
    checkpoint: Policy,
    out: Out,
    roles: Annotated[str | None, typer.Option(help="The role each agent keeps, such as 0,0,1; keyed by role.")] = None,
    trust: Trust = False,
    as_json: AsJSON = False,
) -> None:
    """Merges adapters and ids into dense weights per agent: separate policies (NPS) with the same behaviour.

    [bold]Examples[/bold]

      lorasa adapters merge policy -o merged

      lorasa adapters merge battles --roles 2,2,2,3,3 -o merged
    """
    from lorasa_rllib.policies.merging import merged

    try:
        kept = None if roles is None else [int(part) for part in roles.split(",")]
    except ValueError:
        raise ValueError(f"--roles {roles} must list whole numbers, such as 0,0,1.") from None
    saved = _read(checkpoint, trust)
    _check_roles(saved, kept or [])
    _save(merged(saved, kept), out, as_json)


@app.command()
@reporting
def add(
    checkpoint: Policy,
    name: Annotated[str, typer.Argument(help="The new agent; by role: role_<K>, K the next number.")],
    like: Annotated[str, typer.Option(help="The agent (or role_2) it starts as a copy of.")],
    out: Out,
    plain: Annotated[bool, typer.Option(help="Start from the plain backbone instead of like's adapter.")] = False,
    trust: Trust = False,
    as_json: AsJSON = False,
) -> None:
    """Adds an agent to a team, or a role to a bank, initialised from an existing one.

    To continue training: .sharing("lora", backbone=OUT, adapters=OUT) in an environment with that agent.

    [bold]Examples[/bold]

      lorasa adapters add policy scout --like agent_1 -o larger

      lorasa adapters add battles role_6 --like role_0 --plain -o larger
    """
    from lorasa_rllib.policies.adapters import plain_adapters
    from lorasa_rllib.policies.folder import index_of_adapter
    from lorasa_rllib.policies.saved import names_of_adapters
    from lorasa_rllib.policies.teams import roles_of, team_of

    saved = _read(checkpoint, trust)
    owners, agents = saved.config.owners, saved.config.spec.agents
    if owners.by_role:
        if name != f"role_{owners.num_adapters}":
            raise ValueError(f"the next role is role_{owners.num_adapters}, not {name}.")
        edited = roles_of(saved, [*range(owners.num_adapters), index_of_adapter(saved.config, like)])
    else:
        if name in agents:
            raise ValueError(f"the team has an agent {name!r} already.")
        edited = team_of(saved, {**{agent: agent for agent in agents}, name: like})
    if plain:
        if name not in names_of_adapters(edited.config):
            raise ValueError(f"{name} shares its adapter with others: leave --plain out.")
        edited = plain_adapters(edited, [name])
    _save(edited, out, as_json)


@app.command()
@reporting
def transplant(
    checkpoint: Policy,
    adapter: Annotated[str, typer.Argument(help="The adapter that is replaced.")],
    source: Annotated[str, typer.Option("--from", help="Another policy (as above), or the folder of an adapter.")],
    out: Out,
    name: Annotated[str, typer.Option("--name", help="Which adapter of --from, if that is a policy.")] = "",
    trust: Trust = False,
    as_json: AsJSON = False,
) -> None:
    """Replaces an adapter with one from another policy with the same network, its update unchanged.

    [bold]Examples[/bold]

      lorasa adapters transplant policy agent_0 --from other --name agent_1 -o mixed

      lorasa adapters transplant policy agent_0 --from front_leg -o mixed
    """
    from lorasa_rllib.policies import adapters
    from lorasa_rllib.policies.folder import ADAPTER_CONFIG

    folder = Path(source).expanduser()
    alone = (folder / ADAPTER_CONFIG).is_file()
    if alone and name:
        raise ValueError(f"--name {name}: {source} holds a single adapter; leave --name out.")
    given: Any = folder if alone else _read(source, trust)
    _save(adapters.transplant(_read(checkpoint, trust), adapter, given, name or adapter), out, as_json)


@app.command()
@reporting
def truncate(
    checkpoint: Policy,
    out: Out,
    r: Annotated[int, typer.Option("-r", min=1, help="The new rank.")],
    trust: Trust = False,
    as_json: AsJSON = False,
) -> None:
    """Truncates all adapters to a lower rank (SVD) and reports the error.

    [bold]Examples[/bold]

      lorasa adapters truncate policy -r 4 -o smaller
    """
    from lorasa_rllib.policies.adapters import truncated

    _save_and_tell(truncated(_read(checkpoint, trust), r), out, as_json)


@app.command()
@reporting
def fold(
    checkpoint: Policy,
    out: Out,
    r: Annotated[int | None, typer.Option("-r", min=1, help="Rank of what is left; default: as it is.")] = None,
    trust: Trust = False,
    as_json: AsJSON = False,
) -> None:
    """Moves the mean of all adapters into the backbone, a better start for new adapters; reports the error.

    [bold]Examples[/bold]

      lorasa adapters fold policy -o folded

      lorasa adapters fold policy -r 16 -o folded
    """
    from lorasa_rllib.policies.adapters import folded

    _save_and_tell(folded(_read(checkpoint, trust), r), out, as_json)


def _save(saved: Any, out: Path, as_json: bool) -> None:
    from lorasa_rllib.policies.folder import save_policy

    _tell(save_policy(saved, out), as_json)


def _tell(path: Path, as_json: bool) -> None:
    show({"folder": str(path)}) if as_json else say(path)


def _save_and_tell(edited: Any, out: Path, as_json: bool) -> None:
    from lorasa_rllib.policies.folder import save_policy

    saved, changes = edited
    path = save_policy(saved, out)
    worst: dict[str, dict[str, Any]] = {}
    for change in changes:
        row = worst.setdefault(change.layer, {"layer": change.layer, "mean": 0.0, "largest": 0.0, "of adapter": ""})
        row["mean"] += change.relative_error / saved.config.owners.num_adapters
        if change.relative_error >= row["largest"]:
            row["largest"], row["of adapter"] = change.relative_error, change.adapter
    if as_json:
        show({"policy": str(path), "relative_errors": [vars(change) for change in changes]})
        return
    table(f"{path}: relative error of the adapters' updates", list(worst.values()), "|D - D'| / |D|, Frobenius.")


def _moves(saved: Any) -> list[float]:
    """[K]: |BA| / |W| (Frobenius) over all adapted linear layers; 0 without any."""
    from lorasa_rllib.policies.adapters import updates_of

    updates = updates_of(saved)
    if not updates:
        return [0.0] * saved.config.owners.num_adapters
    squares = sum(update.square().sum((1, 2)) for update in updates.values())
    weights = sum(
        saved.weights[f"{name}.weight"].square().sum() / len(saved.weights[f"{name}.weight"]) for name in updates
    )
    return (squares / weights).sqrt().tolist()  # type: ignore[union-attr]
