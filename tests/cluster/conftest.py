"""Clusters of several raylets on this machine, started and ended by the tests themselves."""

from __future__ import annotations

import os
import sys

import pytest
import ray
from ray import cloudpickle

from tests.cluster import faulty

os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # loopback only

RUNNERS = {"num_cpus": 2, "resources": {"runner": 1}}
"""A node for one env runner: two runners never share a node, so that a lost node always costs exactly one."""


class Nodes:
    """A head for drivers, trials and learners, and nodes that env runners alone may use."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 4, "include_dashboard": False})
        self.runners = [self.cluster.add_node(**RUNNERS) for _ in range(2)]

    def remove(self) -> None:
        """Takes a node of env runners away, as a spot machine goes."""
        self.cluster.remove_node(self.runners.pop(), allow_graceful=False)

    def add(self) -> None:
        self.runners.append(self.cluster.add_node(**RUNNERS))


@pytest.fixture(scope="module")
def nodes():
    cloudpickle.register_pickle_by_value(faulty)  # workers cannot import tests
    nodes = Nodes()
    ray.init(address=nodes.cluster.address, log_to_driver=False)
    yield nodes
    ray.shutdown()
    nodes.cluster.shutdown()
    cloudpickle.unregister_pickle_by_value(sys.modules[faulty.__name__])
