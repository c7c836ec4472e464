"""Files of policies: what is written is read back; what is damaged is refused; what is half written is not there."""

from __future__ import annotations

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from lorasa_rllib.nn.bank import LoRAConfig
from lorasa_rllib.nn.network import NetworkConfig
from lorasa_rllib.policies.acting import load_policy
from lorasa_rllib.policies.files import PolicyFileError, new_folder, write_file
from lorasa_rllib.policies.folder import (
    BACKBONE,
    CONFIG,
    CRITIC,
    in_folders,
    read_adapter,
    read_policy,
    save_adapter,
    save_policy,
)
from lorasa_rllib.policies.saved import Origin, names_of_adapters, saved, team_policy
from tests.helpers import METHODS, make_policy, owner_tables, policies, team
from tests.policies.test_acting import rows_of

ORIGIN = Origin(
    "MAPPO", "mujoco", {"scenario": "Ant", "k": 1.5, "names": ["a", None]}, 1000, {"torch": "2"}, ("merged",)
)


def equal(a, b):
    assert a.config == b.config and a.phase == b.phase and a.origin == b.origin
    for mine, theirs in ((a.weights, b.weights), (a.critic, b.critic)):
        assert (mine is None) == (theirs is None)
        for name in mine or {}:
            assert torch.equal(mine[name], theirs[name]), name
        assert set(mine or {}) == set(theirs or {})


@pytest.mark.parametrize("recurrent", [False, True], ids=["feed-forward", "recurrent"])
@pytest.mark.parametrize("method", METHODS)
@given(data=st.data())
def test_what_is_written_is_read_back(tmp_path_factory, method, recurrent, data):
    folder = tmp_path_factory.mktemp("policies") / "policy"
    policy = data.draw(policies(method, recurrent=recurrent)).float()
    before = saved(policy, ORIGIN)
    after = read_policy(save_policy(before, folder))
    equal(before, after)
    again = team_policy(after)
    assert again.phase == policy.phase
    for name, tensor in policy.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    shutil.rmtree(folder)


def written(folder: Path, **network) -> Path:
    """A small recurrent LoRASA policy of three agents as files."""
    spec, shape = team((3, 3, 3), (2, 2, 2)), NetworkConfig(hidden_size=6, recurrent=True, **network)
    policy = make_policy(spec, owner_tables(3)["lora"], LoRAConfig(r=2), shape).float()
    return save_policy(saved(policy, ORIGIN), folder)


def test_nothing_is_pickled_and_anyone_can_open_the_files(tmp_path):
    folder = written(tmp_path / "policy")
    names = sorted(str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file())
    assert names == [
        *(f"adapters/agent_{n}/{f}" for n in range(3) for f in ("adapter_config.json", "adapter_model.safetensors")),
        "backbone.safetensors",
        "critic.safetensors",
        "policy_config.json",
    ]
    about = json.loads((folder / "adapters/agent_1/adapter_config.json").read_text())
    assert (about["peft_type"], about["r"], about["adapter"]) == ("LORA", 2, "agent_1")
    tensors = safetensors.torch.load_file(folder / "adapters/agent_1/adapter_model.safetensors")
    assert tensors["mlp.0.lora_A"].shape == (2, 4) and tensors["mlp.0.lora_B"].shape == (6, 2)


def test_without_the_critic_a_policy_acts_but_does_not_train(tmp_path):
    folder = written(tmp_path / "policy")
    (folder / "critic.safetensors").unlink()
    assert load_policy(folder).act(np.zeros((3, 3)))[0].shape == (3, 2)
    with pytest.raises(ValueError, match="saved without its critic"):
        team_policy(read_policy(folder))


@given(name=st.text(min_size=0, max_size=20) | st.sampled_from(["..", ".", "../../etc", "a/b", "\0", "con", "A\\B"]))
def test_whatever_an_agent_is_called_its_folder_is_no_path(name):
    folder = in_folders(name)
    assert folder not in ("", ".", "..") and "/" not in folder and "\\" not in folder and "\0" not in folder
    assert not folder.startswith(".")


def test_agents_with_dangerous_names_are_written_inside_the_folder(tmp_path):
    spec = team((3, 3), (2, 2))
    object.__setattr__(spec, "agents", ("../../evil", ".."))
    before = saved(make_policy(spec, owner_tables(2)["lora"]).float())
    folder = save_policy(before, tmp_path / "deep/er/policy")
    equal(before, read_policy(folder))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["deep"]
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["er"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "backbone.safetensors").unlink(), "backbone.safetensors cannot be read: No such file"),
        (lambda f: shutil.rmtree(f / "adapters/agent_1"), "names 3 adapters, but adapters holds 2"),
        (lambda f: (f / "adapters/agent_1").rename(f / "adapters/x"), "agent_1/adapter_config.json cannot be read"),
        (lambda f: shutil.copytree(f / "adapters/agent_1", f / "adapters/x") and None, None),
        (lambda f: (f / "policy_config.json").unlink(), "is no policy: it holds no policy_config.json"),
        (lambda f: (f / "policy_config.json").write_text("{" * 100_000), "damaged"),
        (lambda f: change(f, lambda d: d | {"extra": 1}), "does not have just the fields"),
        (lambda f: change(f, lambda d: d | {"format_version": 2}), "format_version"),
        (lambda f: change(f, lambda d: d | {"phase": "dreaming"}), "phase"),
        (lambda f: network(f, hidden_size=10**12), "out of range"),
        (lambda f: network(f, hidden_size=10**9), "describes a larger network than backbone.safetensors holds"),
        (lambda f: network(f, num_layers=10**9), "num_layers=1000000000 must be between 1 and 1000"),
        (lambda f: network(f, num_layers=900), "is missing"),
        (lambda f: part(f, "owners", num_adapters=2**30), "names 1073741824 adapters, but adapters holds 3"),
        (lambda f: part(f, "owners", backbone_of=[0, 2**30, 0]), "without gaps"),
        (lambda f: part(f, "spec", obs_sizes=[3, 3, 2**30]), "describes a larger network"),
        (lambda f: part(f, "spec", id_capacity=2**30), "describes a larger network"),
        (lambda f: part(f, "spec", state_size=2**30), "critic.safetensors belongs to another policy"),
        (lambda f: part(f, "lora", r=2**30), "other settings than the policy"),
        (lambda f: network(f, hidden_size="64"), "hidden_size"),
        (lambda f: network(f, hidden_size=8), r"has shape \[1, 18\], not \[1, 24\]"),
        (lambda f: network(f, recurrent=False), "gru.hidden.bias is unknown"),
        (lambda f: network(f, head_gain=float("nan")), "NaN is not a number"),
        (lambda f: header(f, 2**63), "damaged"),
        (lambda f: header(f, 10**9), "damaged"),
        (lambda f: tensors(f, lambda name, x: x.half()), "has type F16, not F32"),
        (lambda f: tensors(f, lambda name, x: x[:, None]), "has shape"),
        (lambda f: tensors(f, lambda name, x: x * np.nan), "NaN or infinite"),
        (lambda f: (f / "backbone.safetensors").open("ab").truncate(2**30), "larger than the policy"),
    ],
)
def test_damaged_files_are_refused_with_a_reason(tmp_path, damage, message):
    folder = written(tmp_path / "policy")
    damage(folder)
    if message is None:  # what nobody asked for does no harm
        read_policy(folder)
        return
    with pytest.raises(PolicyFileError, match=message):
        read_policy(folder)


def change(folder, edit):
    file = folder / "policy_config.json"
    file.write_text(json.dumps(edit(json.loads(file.read_text()))))


def part(folder, which, **settings):
    change(folder, lambda d: d | {"policy": d["policy"] | {which: d["policy"][which] | settings}})


def network(folder, **settings):
    part(folder, "network", **settings)


def header(folder, length):
    file = folder / "backbone.safetensors"
    file.write_bytes(struct.pack("<Q", length) + file.read_bytes()[8:])


def tensors(folder, edit):
    file = folder / "backbone.safetensors"
    file.write_bytes(safetensors.torch.save({n: edit(n, x) for n, x in safetensors.torch.load_file(file).items()}))


@pytest.mark.parametrize(
    ("before", "now"),
    [({"feature_norm": True}, "layer"), ({"feature_norm": False}, None), ({"obs_norm": "running"}, "running")],
)
def test_files_of_older_versions_are_read(tmp_path, before, now):
    folder = written(tmp_path / "policy", obs_norm=now, obs_clip=10.0)
    expected = read_policy(folder)

    def older(document):
        since = ("obs_norm", "obs_clip", "initial_log_std")
        network = {n: v for n, v in document["policy"]["network"].items() if n not in since}
        return document | {"policy": document["policy"] | {"network": network | before}}

    change(folder, older)
    equal(read_policy(folder), expected)


def test_an_adapter_of_another_network_is_refused(tmp_path):
    config = read_policy(written(tmp_path / "policy")).config
    adapter = tmp_path / "policy/adapters/agent_0"
    assert set(read_adapter(adapter, config)[1]) > {"mlp.0.lora_A", "log_std.delta"}
    other = make_policy(team((5, 5), (2, 2)), owner_tables(2)["lora"]).float().config
    with pytest.raises(PolicyFileError, match="belongs to another policy"):
        read_adapter(adapter, other)


def test_a_checkpoint_of_rllib_is_named_as_such(tmp_path):
    (tmp_path / "rllib_checkpoint.json").write_text("{}")
    with pytest.raises(PolicyFileError, match="lorasa adapters export"):
        load_policy(tmp_path)


FUZZED = 1500


def test_corrupted_files_end_in_one_kind_of_error_or_in_a_sound_policy(tmp_path):
    """Flipped and dropped and repeated bytes, in every file: never a crash, another exception or NaN actions."""
    whole = written(tmp_path / "policy")
    files = [f for f in sorted(whole.rglob("*")) if f.is_file()]
    contents = {f: f.read_bytes() for f in files}
    rng, refused = np.random.default_rng(0), 0
    obs = np.zeros((3, 3), np.float32)
    for k in range(FUZZED):
        file = files[k % len(files)]
        file.write_bytes(corrupted(contents[file], rng))
        try:
            actions, state = load_policy(whole).act(obs)
            assert np.isfinite(actions).all() and np.isfinite(state).all()
        except PolicyFileError as error:
            refused += 1
            assert str(whole) in str(error)
        finally:
            file.write_bytes(contents[file])
    load_policy(whole)
    assert refused > FUZZED / 2


def corrupted(data: bytes, rng: np.random.Generator) -> bytes:
    kind, at = rng.integers(6), int(rng.integers(len(data)))
    if kind == 0:  # cut off
        return data[:at]
    if kind == 1:  # some bytes become others
        changed = bytearray(data)
        for place in rng.integers(0, min(len(data), 600), rng.integers(1, 9)):
            changed[place] = rng.integers(256)
        return bytes(changed)
    if kind == 2:  # a piece is missing
        return data[:at] + data[at + int(rng.integers(1, 50)) :]
    if kind == 3:  # a piece stands there twice
        return data[:at] + data[max(0, at - 40) :]
    if kind == 4:  # digits become others: sizes, offsets, versions
        digits = [i for i, byte in enumerate(data[:4000]) if 48 <= byte <= 57]
        changed = bytearray(data)
        for place in rng.choice(digits, min(3, len(digits))):
            changed[place] = rng.integers(48, 58)
        return bytes(changed)
    return bytes(rng.integers(0, 256, int(rng.integers(0, 400)), np.uint8))


def test_existing_folders_are_not_overwritten(tmp_path):
    folder = written(tmp_path / "policy")
    before = {f: f.read_bytes() for f in folder.rglob("*") if f.is_file()}
    with pytest.raises(ValueError, match="exists already, and nothing is overwritten"):
        written(folder)
    with pytest.raises(ValueError, match="exists already"):
        save_adapter(read_policy(folder), "agent_0", folder / "adapters/agent_1")
    assert {f: f.read_bytes() for f in folder.rglob("*") if f.is_file()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["policy"]


def test_a_folder_whose_writing_fails_is_not_there(tmp_path):
    with pytest.raises(RuntimeError), new_folder(tmp_path / "policy") as part:
        (part / "half").write_text("x")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


WRITER = """
import sys
from pathlib import Path
from lorasa_rllib.policies.files import new_folder, write_file
target = Path(sys.argv[1])
number = 0
print("ready", flush=True)
while True:
    number += 1
    write_file(target / "file", bytes([number % 256]) * 3_000_000)
    with new_folder(target / f"folder_{number}") as part:
        for name in "abc":
            (part / name).write_bytes(bytes([number % 256]) * 300_000)
"""


def test_a_kill_at_any_moment_leaves_whole_files_and_whole_folders(tmp_path):
    for attempt in range(6):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE)
        process.stdout.readline()
        time.sleep(0.05 + 0.037 * attempt)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        if (tmp_path / "file").exists():
            data = (tmp_path / "file").read_bytes()
            assert len(data) == 3_000_000 and len(set(data)) == 1
        for folder in tmp_path.glob("folder_*"):
            assert {f.name: len(f.read_bytes()) for f in folder.iterdir()} == dict.fromkeys("abc", 300_000)
            shutil.rmtree(folder)


def test_files_are_replaced_whole(tmp_path):
    write_file(tmp_path / "x", b"old")
    write_file(tmp_path / "x", b"new")
    assert (tmp_path / "x").read_bytes() == b"new" and [p.name for p in tmp_path.iterdir()] == ["x"]


WITHOUT_RAY = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("ray", "mujoco", "gymnasium", "pettingzoo"):
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
import numpy as np
from lorasa_rllib import load_policy
for folder in sys.argv[1:]:
    rows = dict(np.load(folder + ".npz"))
    policy, state, found = load_policy(folder), None, []
    for t in range(len(rows["obs"])):
        given = {name: rows[name][t] for name in ("roles", "mask") if name in rows}
        actions, state = policy.act(rows["obs"][t], state, **given)
        found.append(actions)
    np.save(folder + "_found.npy", np.stack(found))
"""


def test_where_ray_cannot_be_imported_a_policy_takes_the_same_actions(tmp_path):
    """1,000 observations each: recurrent and feed-forward, continuous and discrete, keyed by agent and by role."""
    expected = {}
    for continuous in (True, False):
        for recurrent in (True, False):
            for method in ("lora", "role"):
                options = {} if continuous else {"has_masks": True}
                spec = team((4,) * 3, (3,) * 3, continuous, **options)
                shape = NetworkConfig(hidden_size=16, recurrent=recurrent)
                policy = make_policy(spec, owner_tables(3)[method], network=shape).float()
                for parameter in policy.parameters():  # memories with larger weights multiply rounding errors
                    parameter.data *= 0.4
                folder = save_policy(saved(policy), tmp_path / f"{method}_{continuous}_{recurrent}")
                obs, roles, mask = rows_of(policy, 1000)
                rows = {"obs": obs, "roles": roles, "mask": mask}
                np.savez(f"{folder}.npz", **{name: x for name, x in rows.items() if x is not None})
                tensors = {"roles": roles, "masks": mask}
                tensors = {name: torch.as_tensor(x) for name, x in tensors.items() if x is not None}
                with torch.no_grad():
                    distribution, _ = policy.actor.unroll(torch.as_tensor(obs), **tensors)
                expected[folder] = spec.to_environment(distribution.mode().numpy())
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_RAY, *map(str, expected)],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    for folder, wanted in expected.items():
        np.testing.assert_allclose(np.load(f"{folder}_found.npy"), wanted, rtol=1e-4, atol=1e-5)


def test_names_of_adapters_are_distinct():
    spec = team((3, 3, 3), (2, 2, 2))
    object.__setattr__(spec, "agents", ("adapter_1", "b", "c"))
    for name in ("lora", "lora_groups", "lora_with_spares", "role"):
        config = make_policy(spec, owner_tables(3)[name]).config
        names = names_of_adapters(config)
        assert len(set(names)) == len(names) == config.owners.num_adapters


@pytest.mark.parametrize("file", [CONFIG, BACKBONE, CRITIC])
@pytest.mark.parametrize("kind", ["device", "pipe", "folder"])
def test_what_is_no_ordinary_file_is_refused_instead_of_read_for_ever(tmp_path, file, kind):
    folder = save_policy(saved(make_policy(team((3,) * 2, (2,) * 2), owner_tables(2)["lora"]).float()), tmp_path / "p")
    (folder / file).unlink()
    if kind == "device":
        (folder / file).symlink_to("/dev/zero")
    elif kind == "pipe":
        os.mkfifo(folder / file)
    else:
        (folder / file).mkdir()
    with pytest.raises(PolicyFileError):
        read_policy(folder)
