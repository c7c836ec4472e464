"""The files in cluster/ without a cloud: Ray's own checks, the service models of AWS, the types of Kubernetes."""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import os
import re
import shlex
import subprocess
from pathlib import Path

import botocore.session
import click
import kubernetes.client
import pytest
import yaml
from botocore.stub import ANY, Stubber
from botocore.validate import ParamValidator
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import cli

from lorasa_rllib.studies.options import parser, read_options
from lorasa_rllib.studies.trials import trials

CLUSTER = Path(__file__).parents[2] / "cluster"
LAUNCHED = ["aws.yaml", "local.yaml"]
TEXTS = sorted(
    path for path in CLUSTER.iterdir() if path.suffix in {".yaml", ".md", ".py"} or path.name == "Dockerfile"
)


def load(name: str) -> dict:
    return yaml.safe_load((CLUSTER / name).read_text())


def accepted(config: dict) -> dict:
    """What Ray makes of a cluster file, with all its defaults. Raises where Ray would refuse it."""
    config = prepare_config(copy.deepcopy(config))
    validate_config(config)
    return config


# What Ray's cluster launcher says


@pytest.mark.parametrize("name", LAUNCHED)
def test_ray_accepts_the_file(name):
    assert accepted(load(name))["cluster_name"] == "lorasa"


@pytest.mark.parametrize("name", LAUNCHED)
@pytest.mark.parametrize(
    "spoil",
    [
        lambda c: c.update(setup_comands=[]),
        lambda c: c.update(max_workers="many"),
        lambda c: c["provider"].pop("type"),
        lambda c: c["auth"].update(user="ray"),
    ],
    ids=["unknown key", "wrong type", "no provider", "unknown key inside"],
)
def test_ray_refuses_a_spoilt_file(name, spoil):
    config = load(name)
    spoil(config)
    with pytest.raises((Exception, SystemExit)):
        accepted(config)


def test_every_machine_type_may_start_and_no_more_than_allowed_in_all():
    config = accepted(load("aws.yaml"))
    kinds = config["available_node_types"]
    assert config["head_node_type"] in kinds
    assert sum(kind.get("min_workers", 0) for kind in kinds.values()) == 0  # costs nothing while nobody trains


def test_images_have_the_version_of_ray_that_was_tested():
    (pinned,) = re.findall(r"^ray==(.+)$", (CLUSTER.parent / "constraints.txt").read_text(), re.M)
    for path in TEXTS:
        assert set(re.findall(r"rayproject/ray:([\d.]+)-", path.read_text())) <= {pinned}, path.name
    assert load("kuberay.yaml")["spec"]["rayClusterSpec"]["rayVersion"] == pinned


# What AWS says


@pytest.fixture(scope="module")
def ec2():
    return botocore.session.get_session().get_service_model("ec2")


def problems(ec2, operation: str, parameters: dict) -> str:
    return ParamValidator().validate(parameters, ec2.operation_model(operation).input_shape).generate_report()


@pytest.mark.parametrize("kind", load("aws.yaml")["available_node_types"])
def test_aws_knows_every_setting_of_the_machines(ec2, kind):
    machine = load("aws.yaml")["available_node_types"][kind]["node_config"]
    counts = {"MinCount": 1, "MaxCount": 1}  # added by Ray
    assert problems(ec2, "RunInstances", machine | counts) == ""
    assert "InstanceTyp" in problems(ec2, "RunInstances", machine | counts | {"InstanceTyp": "g5.xlarge"})
    for device in machine["BlockDeviceMappings"]:
        device["Ebs"]["VolumeSize"] = "80 GB"
    assert "VolumeSize" in problems(ec2, "RunInstances", machine | counts)


def test_preparing_an_account_opens_ssh_to_ones_own_address_only():
    spec = importlib.util.spec_from_file_location("aws_prepare", CLUSTER / "aws_prepare.py")
    prepare = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(prepare)
    session = botocore.session.get_session()
    keys = {"aws_access_key_id": "none", "aws_secret_access_key": "none", "region_name": "us-west-2"}
    ec2, iam, s3 = (session.create_client(service, **keys) for service in ("ec2", "iam", "s3"))
    with Stubber(ec2) as cloud, Stubber(iam) as people, Stubber(s3) as storage:  # check every call against AWS's models
        cloud.add_response("describe_vpcs", {"Vpcs": [{"VpcId": "vpc-1"}]})
        cloud.add_response("describe_security_groups", {"SecurityGroups": []})
        cloud.add_response("create_security_group", {"GroupId": "sg-1"})
        ssh = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": "192.0.2.7/32"}]}
        among = {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": "sg-1"}]}
        rules = {"GroupId": "sg-1", "IpPermissions": [ssh, among]}
        cloud.add_response("authorize_security_group_ingress", {}, rules)
        storage.add_response("create_bucket", {})
        closed = {"Bucket": "results", "PublicAccessBlockConfiguration": ANY}
        storage.add_response("put_public_access_block", {}, closed)
        people.add_client_error("create_role", "EntityAlreadyExists")  # the worker's: there already
        role = {"Path": "/", "RoleName": "lorasa-head", "RoleId": "A" * 20, "Arn": "a" * 20, "CreateDate": 0}
        people.add_response("create_role", {"Role": role})
        people.add_response("attach_role_policy", {})
        people.add_response("attach_role_policy", {})
        people.add_response("put_role_policy", {})
        profile = {k.replace("Role", "InstanceProfile"): v for k, v in role.items()} | {"Roles": []}
        people.add_response("create_instance_profile", {"InstanceProfile": profile})
        people.add_response("add_role_to_instance_profile", {})
        prepare.prepare(ec2, iam, s3, "results", "us-west-2", "192.0.2.7")
        for stub in (cloud, people, storage):
            stub.assert_no_pending_responses()


# What Kubernetes says


# Fields of KubeRay's ray.io/v1 resources (1.5.1 to 1.7.0) that this package uses: a type, or the fields of an object.
FIELDS = {
    "apiVersion": str,
    "kind": str,
    "metadata": "V1ObjectMeta",
    "spec": {
        "entrypoint": str,
        "shutdownAfterJobFinishes": bool,
        "ttlSecondsAfterFinished": int,
        "backoffLimit": int,
        "rayClusterSpec": {
            "rayVersion": str,
            "authOptions": {"mode": str},
            "enableInTreeAutoscaling": bool,
            "autoscalerOptions": {"idleTimeoutSeconds": int},
            "headGroupSpec": {"rayStartParams": {}, "template": "V1PodTemplateSpec"},
            "workerGroupSpecs": [
                {
                    "groupName": str,
                    "replicas": int,
                    "minReplicas": int,
                    "maxReplicas": int,
                    "rayStartParams": {},
                    "template": "V1PodTemplateSpec",
                }
            ],
        },
    },
}


def check(value, kind, where: str = "") -> None:
    """Raises AssertionError where a value is not of a kind: a type, our `FIELDS`, or a type of Kubernetes by name."""
    if isinstance(kind, dict):
        assert isinstance(value, dict) and set(value) <= set(kind), f"{where}: {set(value) - set(kind)} unknown"
        for name, part in value.items():
            check(part, kind[name], f"{where}.{name}")
    elif isinstance(kind, list):
        assert isinstance(value, list), where
        for part in value:
            check(part, kind[0], where)
    elif isinstance(kind, type):
        assert isinstance(value, kind) and not (kind is int and isinstance(value, bool)), f"{where}: {value!r}"
    elif kind.startswith("List["):
        check(value, [kind[5:-1]], where)
    elif kind.startswith("Dict["):
        assert all(isinstance(k, str) and isinstance(v, str) for k, v in value.items()), f"{where}: {value}"
    elif kind in {"str", "int", "bool"}:
        check(value, {"str": str, "int": int, "bool": bool}[kind], where)
    else:
        model = getattr(kubernetes.client, kind)
        names = {field: model.openapi_types[attribute] for attribute, field in model.attribute_map.items()}
        check(value, names, where)


def test_kubernetes_knows_every_field_of_the_job():
    check(load("kuberay.yaml"), FIELDS)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda job: job["spec"].update(shutdownAfterJobFinish=True),
        lambda job: job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0].update(maxReplicas="8"),
        lambda job: job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"].update(container=[]),
        lambda job: job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["env"].append(
            {"name": "A", "value": 1}
        ),
    ],
    ids=["unknown field", "wrong type", "unknown field of a pod", "wrong type in a container"],
)
def test_a_spoilt_job_is_found_out(spoil):
    job = load("kuberay.yaml")
    spoil(job)
    with pytest.raises(AssertionError):
        check(job, FIELDS)


# What we say


def test_nothing_is_open_to_the_world_and_no_secret_is_in_a_file():
    for path in TEXTS:
        text = path.read_text()
        assert "0.0.0.0" not in text, path.name
        assert not re.search(r"AKIA[0-9A-Z]{16}|BEGIN [A-Z ]*PRIVATE KEY|\b[0-9a-f]{40,}\b", text), path.name


def commands(text: str) -> list[list[str]]:
    """Command lines in a document or a yaml file, continued lines joined, comment signs and prompts removed."""
    joined = re.sub(r"\s*\\\n[\s#]*", " ", text)
    deeper = re.compile(r"^( *)(.*)>-\n((?:\1 +.*\n)+)", re.M)  # what belongs to a folded value
    folded = deeper.sub(lambda m: m[1] + m[2] + " ".join(m[3].split()) + "\n", joined)
    lines = re.findall(r"(?:^|[`;:&#(]|- )\s*((?:ray|python) [^`\n;&|]+)", folded, re.M)
    return [shlex.split(line.split("  ")[0], comments=True) for line in lines if "'" not in line]


def check_command(words: list[str]) -> bool:
    """Whether we can check it: it runs a script of ours, or `ray`. Raises AssertionError, or what the script raises."""
    script = next((i for i, word in enumerate(words) if "tune_configs/" in word), None)
    if script is not None:  # all that the script checks before it starts Ray
        assert trials(read_options([word for word in words[script + 1 :] if word != "--"], ""))
    if words[0] == "ray":
        command: click.Command = cli
        rest = words[1:]
        while isinstance(command, click.Group) and rest:
            assert rest[0] in command.commands, words
            command, rest = command.commands[rest[0]], rest[1:]
        accepts = {option for parameter in command.params for option in parameter.opts}
        own = rest[: next((i for i, word in enumerate(rest) if word == "--" or "tune_configs/" in word), None)]
        assert {w.split("=")[0] for w in own if w.startswith("--")} <= accepts, words
    return script is not None or words[0] == "ray"


@pytest.mark.parametrize("path", [p for p in TEXTS if p.suffix in {".md", ".yaml"}], ids=lambda path: path.name)
def test_every_command_that_is_shown_works(path):
    assert sum(check_command(words) for words in commands(path.read_text()))


@pytest.mark.parametrize(
    "command",
    [
        "python tune_configs/mamujoco.py --num-env-runner-count 8",
        "python tune_configs/mamujoco.py --scenario Ant-4x2 --num-env-runners 4 --num-learners 5",  # of 6 environments
        "ray submit cluster/aws.yaml tune_configs/mamujoco.py -- --sedes 3",
        "ray submit --tmax cluster/aws.yaml tune_configs/mamujoco.py -- --seeds 3",
        "ray job submit --adress here -- python tune_configs/mamujoco.py",
        "ray submit cluster/aws.yaml tune_configs/mamujoco.py -- --seeds 3 \\\n    --storage-folder results",
        "ray upp cluster/aws.yaml",
    ],
)
def test_a_command_that_does_not_work_is_found_out(command):
    (words,) = commands(f"```bash\n{command}\n```\n")
    with pytest.raises((AssertionError, ValueError, SystemExit)):
        check_command(words)


def test_options_that_the_guide_explains_exist():
    known = {option for action in parser("")._actions for option in action.option_strings}
    rows = re.findall(r"^\| `(--[^`]+)` \|", (CLUSTER / "README.md").read_text(), re.M)
    assert len(rows) > 4 and {word for row in rows for word in row.split() if word.startswith("--")} <= known


def test_the_recipe_for_starcraft_is_a_valid_script_that_stops_at_the_first_error():
    script = CLUSTER / "install_starcraft.sh"
    assert subprocess.run(["bash", "-n", script], timeout=10).returncode == 0
    assert "set -euo pipefail" in script.read_text() and os.access(script, os.X_OK)


@pytest.mark.parametrize(("given", "status"), [("", 0), ("right", 0), ("0" * 64, 1)])
def test_the_recipe_for_starcraft_compares_archives_with_a_given_checksum(tmp_path, given, status):
    text = (CLUSTER / "install_starcraft.sh").read_text()
    check = re.search(r"^check_archive\(\) \{.*?^\}", text, re.M | re.S)[0]
    archive, right = tmp_path / "game.zip", hashlib.sha256(b"the game").hexdigest()
    archive.write_bytes(b"the game")
    command = f'{check}\ncheck_archive "$1" "$2" SC2_SHA256\necho unpacks'
    done = subprocess.run(
        ["bash", "-euc", command, "bash", archive, right if given == "right" else given],
        capture_output=True, text=True, timeout=10, check=False,
    )  # fmt: skip
    assert done.returncode == status and f"SC2_SHA256={right}\n" in done.stdout
    assert ("unpacks" in done.stdout) is (status == 0) and ("was not unpacked" in done.stderr) is (status == 1)
    for name, unpack in (("game", "unzip -q -P"), ("maps", "unzip -q -o")):
        assert text.index(f'check_archive "$work/{name}.zip"') < text.index(unpack)
