"""What tests share: one torch thread, how many examples a property test draws, GPUs where there are any, and Ray."""

import atexit
import os
import shutil
import tempfile

import pytest
import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)

RAY_FOLDER = tempfile.mkdtemp(prefix="lorasa", dir="/tmp")  # short: sockets lie in it
os.environ["RAY_TMPDIR"] = RAY_FOLDER  # without it, one test process would join the Ray of another
atexit.register(shutil.rmtree, RAY_FOLDER, ignore_errors=True)

os.environ.setdefault("RLLIB_TEST_NO_JAX_IMPORT", "1")  # RLlib's own tests set it: a second less for every process

settings.register_profile(
    "default",
    max_examples=20,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("default")


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def ray_address():
    """The address of one Ray for all tests of this process, and for the scripts of those that do not test its start.

    CPUs are claimed, not needed: the actors of these tests mostly wait for each other.
    """
    import ray

    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    begun = ray.init(num_cpus=8, include_dashboard=False, log_to_driver=False, ignore_reinit_error=True)
    yield begun.address_info["gcs_address"]
    ray.shutdown()
