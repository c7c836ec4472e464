"""Names of methods and their variants, and what they set."""

from __future__ import annotations

import pandas as pd
import pytest

from lorasa_rllib.studies.forks import fork_steps, forks, trunks, whole_curves
from lorasa_rllib.studies.methods import METHODS, PAPERS, colours_of, key_of_blocks, label_of, method_of, steps_of
from lorasa_rllib.studies.options import read_options
from lorasa_rllib.studies.trials import trials


def configs(*arguments: str, suite: str | None = "mamujoco", **more) -> dict:
    found = trials(read_options(list(arguments), "", suite, **more))
    return {name.method: config for name, config in found.items()}


def test_variants_set_what_they_say_and_nothing_else():
    names = ["lora", "lora:r=16", "lora-joint:r=4,alpha=2", "lora:on=head", "lora:on=mlp.1+head", "lora:switch=2k"]
    found = configs("--methods", *names, "lora:switch=auto,bias=yes,norm=yes", "--total-env-steps", "10000")
    assert found["lora:r=16"].r == found["lora:r=16"].lora_alpha == 16
    assert found["lora-joint:r=4,alpha=2"].lora_alpha == 2 and found["lora-joint:r=4,alpha=2"].r == 4
    assert found["lora-joint:r=4,alpha=2"].schedule == "joint"
    assert found["lora:on=head"].target_modules == ("head", "log_std")
    assert found["lora:on=mlp.1+head"].target_modules == ("mlp.1", "head")
    assert found["lora:switch=2k"].phase_switch == 2000
    last = found["lora:switch=auto,bias=yes,norm=yes"]
    assert last.phase_switch == "auto" and last.adapt_bias and last.adapt_norm
    plain = found["lora"]
    assert plain.r == 8 and plain.target_modules == ("*",) and not plain.adapt_bias


def test_placements_name_only_layers_that_the_network_has():
    for network, hidden in (
        ("feedforward", ("mlp.*", "log_std")),
        ("published", ("mlp.*", "gru.*", "post.*", "log_std")),
    ):
        found = configs("--methods", "lora:on=hidden", "--network", network)
        assert found["lora:on=hidden"].target_modules == hidden


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("laura", "choose from ps, nps"),
        ("ps:r=3", "variants are of methods with adapters"),
        ("lora:rank=3", "'rank' is not a setting of a variant"),
        ("lora:r=many", "'many' is not a value of r"),
        ("lora:bias=1", "'1' is not a value of bias"),
        ("lora-role", "needs roles, which mamujoco does not have"),
    ],
)
def test_names_that_mean_nothing_are_refused(name, message, capsys):
    with pytest.raises(SystemExit):
        read_options(["--methods", name], "")
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("blocks", "agents", "key"),
    [(1, 3, (0, 0, 0)), (2, 6, (0, 0, 0, 1, 1, 1)), (2, 5, (0, 0, 0, 1, 1)), (4, 4, (0, 1, 2, 3))],
)
def test_blocks_of_neighbours(blocks, agents, key):
    assert key_of_blocks(blocks, agents) == key


def test_neighbours_share_adapters():
    config = configs("--scenario", "HalfCheetah-6x1", "--methods", "lora:blocks=3")["lora:blocks=3"]
    assert config.plan().owners.adapter_of == (0, 0, 1, 1, 2, 2)
    with pytest.raises(ValueError, match="blocks=7 must lie between 1 and the number of agents, 6"):
        configs("--scenario", "HalfCheetah-6x1", "--methods", "lora:blocks=7")


def test_a_pattern_that_matches_no_layer_is_refused_before_anything_starts():
    for placement in ("conv*", "conv*+head"):
        with pytest.raises(ValueError, match=r"'conv\*' matches no layer"):
            configs("--methods", f"lora:on={placement}")


@pytest.mark.parametrize(("text", "steps"), [("12000", 12000), ("0.5M", 500_000), ("3k", 3000), ("0.3", 0.3)])
def test_numbers_of_steps(text, steps):
    assert steps_of(text) == steps and type(steps_of(text)) is type(steps)


def test_every_method_has_its_own_colour_and_label():
    names = [*METHODS, "lora:r=4", "lora:r=16", "stock", "another"]
    colours = colours_of(names)
    assert len(set(colours.values())) == len(names) == len({label_of(name) for name in names})
    assert set(PAPERS) <= set(METHODS) and method_of("lora:r=4").label == "LoRASA, two phases, r = 4"


def test_forks_are_rounded_up_to_whole_iterations_and_must_lie_within_the_budget(capsys):
    def add(parser):
        parser.add_argument("--fork-at", default="0.1,0.5")

    options = read_options(["--total-env-steps", "100000"], "", more=add)
    assert options.fork_at == (10_000, 50_000) and options.name.endswith("forks")
    with pytest.raises(SystemExit):
        read_options(["--total-env-steps", "1000", "--fork-at", "2000"], "", more=add)
    assert "--fork-at=2000 must lie within the budget" in capsys.readouterr().err


def test_forks_are_of_the_base_and_leave_adapters_time():
    def add(parser):
        parser.add_argument("--fork-at")
        parser.add_argument("--base")

    given = ["--total-env-steps", "100000", "--base", "lora:r=4", "--fork-at"]
    options = read_options([*given, "0.1"], "", None, ["ps"], add)
    (trunk,), (fork,) = trunks(options).values(), forks(options, {("HalfCheetah-2x3", 1): {12_000: "/nowhere"}})
    assert trunk.r == 4 and fork.method == "lora:r=4,switch=12000"
    assert fork_steps(options, trunk) == (12_000,)
    with pytest.raises(ValueError, match=r"--fork-at 99000.*ends at 100000"):
        fork_steps(read_options([*given, "0.99"], "", None, ["ps"], add), trunk)


def test_a_fork_took_as_long_as_its_trunk_and_itself():
    def part(method, steps, seconds):
        rows = {"scenario": "A", "obs": "local", "method": method, "seed": 1, "env_steps": steps, "seconds": seconds}
        return pd.DataFrame(rows)

    forked = part("lora:switch=20", [30, 40], [1.0, 2.0])
    whole = whole_curves(
        pd.concat([part("ps", [10, 40], [5.0, 9.0]), forked]),
        part("trunk", [10, 20, 30], [3.0, 4.0, 6.0]),
        {"lora:switch=20"},
    )
    assert whole.loc[whole["method"] == "lora:switch=20", "env_steps"].tolist() == [10, 20, 30, 40]
    assert whole.groupby("method")["seconds"].max().to_dict() == {"lora:switch=20": 6.0, "ps": 9.0}


@pytest.mark.parametrize("option", ["--sharing", "--schedule", "--adapter-key"])
def test_options_of_one_method_are_refused_where_several_are_compared(option, capsys):
    with pytest.raises(SystemExit):
        read_options([option, "nps"], "", None, PAPERS)
    assert option in capsys.readouterr().err


def test_variants_are_compared_beside_the_methods():
    options = read_options(["--methods", "nps"], "", None, ["ps"], variants=lambda given: ["lora:r=2"])
    assert options.methods == ("nps", "lora:r=2")


def test_scripts_for_several_suites_follow_the_option():
    found = configs("--suite", "pettingzoo", "--env-name", "mpe2.simple_spread_v3", suite=None, methods=PAPERS)
    assert tuple(found) == PAPERS and found["ps"].env == "pettingzoo"
