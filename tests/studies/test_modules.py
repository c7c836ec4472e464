"""Environments in a file of the user's own."""

from __future__ import annotations

import sys

import pytest

from lorasa_rllib.cli import main
from lorasa_rllib.policies.folder import save_policy
from lorasa_rllib.policies.saved import Origin, saved
from tests.helpers import make_policy, owner_tables

OWN = """
from mpe2 import simple_spread_v3
def Meet(**settings):
    return simple_spread_v3.parallel_env(max_cycles=5, **settings)
"""


def test_environments_in_the_current_folder_are_found_if_trusted(capsys, tmp_path, monkeypatch):
    from lorasa_rllib.envs.registry import environment_class

    pytest.importorskip("mpe2", reason="needs the extra [pettingzoo]")
    (tmp_path / "meet.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    own = {"env": "meet:Meet"}
    with monkeypatch.context() as there:
        there.syspath_prepend(tmp_path)
        spec = environment_class("pettingzoo").team_spec(**own)
    sys.modules.pop("meet", None)
    made = make_policy(spec, owner_tables(spec.num_agents)["lora"]).float()
    files = save_policy(saved(made, Origin("MAPPO", "pettingzoo", own, 0)), tmp_path / "policy")
    assert main(["evaluate", str(files), "--episodes", "1"]) == 2
    assert "--trust" in capsys.readouterr().err and "meet" not in sys.modules
    assert main(["evaluate", str(files), "--episodes", "1", "--trust"]) == 0
