"""The import rule: dependencies point one way, and everything below the Ray layer works without Ray."""

import subprocess
import sys
from pathlib import Path

import pytest

import lorasa_rllib

PACKAGE = Path(lorasa_rllib.__file__).parent
WITHOUT_RAY = ("nn", "sharing", "policies", "rollout", "learning", "envs", "analysis")
OPTIONAL = ("mujoco", "gymnasium", "gymnasium_robotics", "pettingzoo", "smac", "smacv2", "jax", "jaxmarl", "vmas")

BLOCK = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ImportError(name + " is not available here")
sys.meta_path.insert(0, Refuse())
"""


def run(code: str, blocked: tuple[str, ...]) -> subprocess.CompletedProcess:
    program = BLOCK.format(blocked=blocked) + code
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)


def modules(folder: str) -> list[str]:
    files = sorted((PACKAGE / folder).glob("**/*.py")) if (PACKAGE / folder).is_dir() else []
    names = [".".join(f.relative_to(PACKAGE.parent).with_suffix("").parts) for f in files]
    return [name.removesuffix(".__init__") for name in names]


def test_everything_below_the_ray_layer_imports_where_ray_does_not():
    names = [
        "lorasa_rllib",
        "lorasa_rllib.spec",
        "lorasa_rllib.spaces",
        "lorasa_rllib.freed_memory",
        "lorasa_rllib.install",
        "lorasa_rllib.printable",
        "lorasa_rllib.suggestion",
        *(name for folder in WITHOUT_RAY for name in modules(folder)),
    ]
    assert {"lorasa_rllib.nn.policy", "lorasa_rllib.learning.mappo", "lorasa_rllib.envs.synthetic"} <= set(names)
    # modules of an optional simulator may need it: what must not appear is Ray
    code = f"""
import importlib
for name in {names!r}:
    try:
        importlib.import_module(name)
    except ImportError as error:
        assert (error.name or "").partition(".")[0] in {OPTIONAL!r}, f"{{name}}: {{error}}"
assert not any(name.partition(".")[0] == "ray" for name in sys.modules)
"""
    result = run(code, ("ray",))
    assert result.returncode == 0, result.stderr


def test_where_ray_does_not_import_the_ray_layer_fails_and_so_the_test_above_means_something():
    result = run("import lorasa_rllib; lorasa_rllib.MAPPOConfig", ("ray",))
    assert "ray is not available here" in result.stderr


def test_importing_the_package_loads_neither_ray_nor_torch():
    code = "import lorasa_rllib; lorasa_rllib.__version__; assert not {'ray', 'torch', 'numpy'} & set(sys.modules)"
    result = run(code, ())
    assert result.returncode == 0, result.stderr


def test_the_spec_loads_neither_ray_nor_torch():
    result = run("import lorasa_rllib.spec; assert not {'ray', 'torch'} & set(sys.modules)", ())
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("folder", "allowed"),
    [
        ("nn", ("spec", "nn")),
        ("sharing", ("spec", "nn", "sharing")),
        ("policies", ("spec", "spaces", "install", "printable", "nn", "sharing", "policies")),
        ("rollout", ("spec", "nn", "envs.base", "envs.arrays", "rollout")),
        ("learning", ("spec", "nn", "sharing", "rollout", "learning")),
        ("envs", ("spec", "spaces", "install", "suggestion", "envs")),
        ("analysis", ("spec", "nn", "sharing", "analysis")),
        (
            "rllib",
            (
                "spec",
                "old_names",
                "suggestion",
                "freed_memory",
                "nn",
                "sharing",
                "policies",
                "rollout",
                "learning",
                "envs",
                "rllib",
            ),
        ),
    ],
)
def test_dependencies_point_one_way(folder, allowed):
    for name in modules(folder):
        path = PACKAGE.parent.joinpath(*name.split("."))
        source = (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text()
        for line in source.splitlines():
            words = line.split()
            if len(words) > 1 and words[0] in ("from", "import") and words[1].startswith("lorasa_rllib."):
                imported = words[1].removeprefix("lorasa_rllib.")
                assert {imported, imported.split(".")[0]} & set(allowed), f"{name}: {line.strip()}"


def test_an_unknown_name_of_the_package_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        _ = lorasa_rllib.Nonsense
    assert "MAPPOConfig" in dir(lorasa_rllib)
