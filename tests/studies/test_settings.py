"""An experiment goes on only with the options it was started with."""

from __future__ import annotations

import pytest

from lorasa_rllib.studies.options import read_options
from lorasa_rllib.studies.run import located
from lorasa_rllib.studies.settings import FILE, check_unchanged, remember


def options(*arguments):
    return read_options(["--methods", "ps", "lora", *arguments], "a study", "mamujoco")


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_changed_options_are_refused_and_named(tmp_path, scheme):
    folder = f"{scheme}{tmp_path}/experiment"
    remember(options("--seeds", "2", "--total-env-steps", "9000"), folder)
    assert [str(path.relative_to(tmp_path / "experiment")) for path in tmp_path.rglob("*.*")] == [FILE]
    same = ["--total-env-steps", "9000", "--resume", "--address", "auto", "--storage-path", "elsewhere"]
    check_unchanged(options("--seeds", "1,2", *same), folder)
    with pytest.raises(ValueError, match=r"--total-env-steps 8000 \(begun with 9000\).* another --name"):
        check_unchanged(options("--seeds", "2", "--total-env-steps", "8000"), folder)
    with pytest.raises(ValueError, match=r"--seeds \[1, 2, 3\] \(begun with \[1, 2\]\)"):
        check_unchanged(options("--seeds", "3", *same), folder)
    typed = ["--seeds", "2", *same, "--scenario", "Ant-4x2", "--num-envs-per-env-runner", "4"]
    with pytest.raises(ValueError, match=r"--scenario .*, --num-envs-per-env-runner 4 \(begun with None\)"):
        check_unchanged(options(*typed), folder)


def test_experiments_of_older_versions_go_on(tmp_path):
    check_unchanged(options(), str(tmp_path))


def test_a_path_of_results_is_given_with_the_storage_it_lies_on():
    assert located("/home/me/results/trial", "/home/me/results") == "/home/me/results/trial"
    assert located("bucket/results/trial", "s3://bucket/results") == "s3://bucket/results/trial"
    assert located("/nfs/trial", "file:///nfs") == "file:///nfs/trial"
    assert located("b/trial", "s3://b?region=eu-west-1&scheme=http") == "s3://b/trial?region=eu-west-1&scheme=http"
