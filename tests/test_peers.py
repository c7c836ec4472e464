"""The comparison with peers: real processes that take turns on small sizes, what counts as the same work, messages."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks.children import Child
from benchmarks.jaxmarl_mappo import script
from benchmarks.peer_process import PEERS, SMOKE, TASKS
from benchmarks.peers import Turns, measured, missing

ROOT = Path(__file__).parents[1]


def test_ours_and_stock_ppo_do_the_same_work_in_turns():
    rows = measured("mujoco", ["ours-ps", "rllib-ppo"], {}, repeats=1, smoke=True)
    assert [row["who"] for row in rows] == ["ours-ps", "rllib-ppo"]
    ours, stock = rows
    assert ours["share_of_ours_ps"] == 1 and stock["share_of_ours_ps"] > 0
    assert ours["parameters"] == pytest.approx(stock["parameters"], rel=0.05)


def test_our_side_does_not_start_ray():
    code = (
        "import ray\nfrom benchmarks.ours import Team, team_config\n"
        "Team(team_config('HalfCheetah', '6x1', 2, 20), 'backbone').iteration()\nprint(ray.is_initialized())"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert answer.stdout.splitlines()[-1] == "False"


@pytest.mark.skipif(not find_spec("torchrl"), reason="needs the extra bench")
@pytest.mark.parametrize("task", ["mujoco", "vmas"])
def test_torchrl_does_the_same_work(task):
    (row,) = measured(task, ["torchrl-ppo"], {}, repeats=2, smoke=True)
    assert row["parameters"] > 0


def test_every_peer_has_sizes_and_a_small_form_of_them():
    assert PEERS.keys() == TASKS.keys() == SMOKE.keys()
    for task in (*TASKS.values(), *SMOKE.values()):
        assert task.env_steps % task.minibatches == 0
        assert task.optimiser_steps == task.passes * task.minibatches


def turns(*answers):
    one = Turns.__new__(Turns)
    one.who, one.answers = "rival", [dict(env_steps=e, optimiser_steps=o, loss=loss) for e, o, loss in answers]
    return one


def test_other_numbers_of_steps_and_losses_that_stay_are_errors():
    task = SMOKE["vmas"]
    same = task.env_steps, task.optimiser_steps
    turns((*same, 0.3), (*same, 0.2)).check(task)
    with pytest.raises(RuntimeError, match="rival took other numbers of steps"):
        turns((*same, 0.3), (same[0], same[1] - 1, 0.2)).check(task)
    with pytest.raises(RuntimeError, match="rival does not learn"):
        turns((*same, 0.3), (*same, 0.3)).check(task)


def test_packages_that_are_missing_are_named():
    assert missing(sys.executable, ["torch", "no_such_package"]) == ["no_such_package"]
    assert missing(sys.executable, []) == []


def test_a_process_that_ends_says_what_it_said_last():
    echo = "import sys\nfor _ in sys.stdin: print('{\"n\": 1}', flush=True)"
    child = Child("echo", [sys.executable, "-c", echo])
    assert child.ask() == child.ask() == {"n": 1}
    child.close()
    child = Child("failing", [sys.executable, "-c", "raise SystemExit('out of luck')"])
    with pytest.raises(RuntimeError, match="failing ended:\nout of luck"):
        child.ask()
    child.close()


def test_another_file_is_not_taken_for_jaxmarls_script(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.jaxmarl_mappo.FOLDER", tmp_path)
    (tmp_path / "mappo_rnn_smax.py").write_text("print('hello')")
    with pytest.raises(RuntimeError, match=r"is not JaxMARL's script of commit c793d09: delete it"):
        script()
