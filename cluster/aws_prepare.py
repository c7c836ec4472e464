"""Makes what `ray up cluster/aws.yaml` expects in an AWS account; what is there already stays.

    pip install -e ".[aws]" -c constraints.txt
    python cluster/aws_prepare.py --bucket my-lorasa-results [--region us-west-2]

* security group "lorasa": ssh from your own address alone, everything among the machines of the cluster
* instance profiles "lorasa-head" (starts and ends machines, uses the bucket) and "lorasa-worker" (uses the bucket)
* the S3 bucket, closed to the public
* ~/.ray/auth_token: who holds it may use the cluster
"""

from __future__ import annotations

import argparse
import json
import subprocess
import urllib.request
from typing import Any

import boto3
from botocore.exceptions import ClientError

NAME = "lorasa"
ASSUMED_BY_MACHINES = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}],
}


def own_address() -> str:
    """The address from which AWS sees you."""
    with urllib.request.urlopen("https://checkip.amazonaws.com", timeout=10) as answer:
        return answer.read().decode().strip()


def security_group(ec2: Any, address: str) -> str:
    """The group's id."""
    (vpc,) = ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
    filters = [{"Name": "group-name", "Values": [NAME]}, {"Name": "vpc-id", "Values": [vpc["VpcId"]]}]
    if there := ec2.describe_security_groups(Filters=filters)["SecurityGroups"]:
        return there[0]["GroupId"]
    group = ec2.create_security_group(GroupName=NAME, Description="LoRASA on Ray", VpcId=vpc["VpcId"])["GroupId"]
    ssh = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": f"{address}/32"}]}
    among = {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": group}]}
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[ssh, among])
    return group


def instance_profile(iam: Any, name: str, policies: list[str], statements: list[dict[str, Any]]) -> None:
    """A role of this name, and an instance profile that hands it to machines."""
    if not _made(iam.create_role, RoleName=name, AssumeRolePolicyDocument=json.dumps(ASSUMED_BY_MACHINES)):
        return
    for policy in policies:
        iam.attach_role_policy(RoleName=name, PolicyArn=f"arn:aws:iam::aws:policy/{policy}")
    document = json.dumps({"Version": "2012-10-17", "Statement": statements})
    iam.put_role_policy(RoleName=name, PolicyName=name, PolicyDocument=document)
    iam.create_instance_profile(InstanceProfileName=name)
    iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)


def bucket(s3: Any, name: str, region: str) -> None:
    where = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
    if _made(s3.create_bucket, Bucket=name, **where):
        closed = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")
        s3.put_public_access_block(Bucket=name, PublicAccessBlockConfiguration=dict.fromkeys(closed, True))


def prepare(ec2: Any, iam: Any, s3: Any, name: str, region: str, address: str) -> None:
    """All of it but the token."""
    security_group(ec2, address)
    bucket(s3, name, region)
    arns = [f"arn:aws:s3:::{name}", f"arn:aws:s3:::{name}/*"]
    uses_bucket = {"Effect": "Allow", "Action": "s3:*", "Resource": arns}
    hands_on = {"Effect": "Allow", "Action": "iam:PassRole", "Resource": f"arn:aws:iam::*:role/{NAME}-worker"}
    instance_profile(iam, f"{NAME}-worker", [], [uses_bucket])
    machines = ["AmazonEC2FullAccess", "AmazonSSMReadOnlyAccess"]
    instance_profile(iam, f"{NAME}-head", machines, [uses_bucket, hands_on])


def _made(create: Any, **what: Any) -> bool:
    """Creates; False if it is there already."""
    try:
        create(**what)
    except ClientError as error:
        if error.response["Error"]["Code"] in ("EntityAlreadyExists", "BucketAlreadyOwnedByYou"):
            return False
        raise
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bucket", required=True, help="S3 bucket for results; made if it does not exist")
    parser.add_argument("--region", default="us-west-2", help="as in cluster/aws.yaml")
    options = parser.parse_args()
    ec2, iam, s3 = (boto3.client(service, region_name=options.region) for service in ("ec2", "iam", "s3"))
    prepare(ec2, iam, s3, options.bucket, options.region, own_address())
    subprocess.run(["ray", "get-auth-token", "--generate"], check=True, stdout=subprocess.DEVNULL)
    print(f"Ready: ray up cluster/aws.yaml, and --storage-path s3://{options.bucket} for the scripts.")


if __name__ == "__main__":
    main()
