"""`lorasa envs` and `lorasa doctor`: what is installed, what works, and how to install the rest."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from lorasa_rllib.cli.output import AsJSON, show, table
from lorasa_rllib.install import installing, missing_part

ABOUT = {
    "mamujoco": ("Multi-Agent MuJoCo: bodies whose joints are shared out", installing()),
    "pettingzoo": ("any PettingZoo parallel environment", f"{installing()}; games: pip install mpe2 ..."),
    "smac": ("StarCraft II battles on fixed maps", "bash cluster/install_starcraft.sh"),
    "smacv2": ("StarCraft II battles with drawn teams", "bash cluster/install_starcraft.sh"),
    "smax": ("StarCraft-like battles in JAX", installing("smax")),
    "synthetic": ("a free task of any team size, for controlled studies and benchmarks", installing()),
    "vmas": ("two-dimensional physics of teams in PyTorch, on CPU or GPU", installing("vmas")),
}
PACKAGES = {
    "mamujoco": ("mujoco", "gymnasium_robotics"),
    "pettingzoo": ("pettingzoo",),
    "smac": ("smac.env",),
    "smacv2": ("smacv2.env",),
    "smax": ("jax", "jaxmarl"),
    "vmas": ("vmas",),
}
VERSIONS = (
    "lorasa-rllib", "torch", "ray", "numpy", "gymnasium", "gymnasium-robotics", "mujoco", "pettingzoo", "safetensors",
)  # fmt: skip
OPTIONAL = {
    "films (.mp4)": (f"{installing('video')}; .gif works without", "imageio-ffmpeg", "imageio_ffmpeg"),
    "ONNX": (installing("onnx"), "onnxruntime", "onnxruntime", "onnxscript"),
    "W&B (--logger wandb)": (installing("wandb"), "wandb", "wandb"),
    "MLflow (--logger mlflow)": (installing("mlflow"), "mlflow-skinny", "mlflow", "alembic", "sqlalchemy"),
}
"""Optional parts: how to install each, the distribution whose version is shown, and the modules that it needs."""

OK, MISSING, BROKEN = "works", "missing", "broken"


def envs(as_json: AsJSON = False) -> None:
    """Lists the environments: what each is, whether it works here, and how to install it if not.

    [bold]Examples[/bold]

      lorasa envs

      lorasa envs --json
    """
    from lorasa_rllib.envs.registry import ENVIRONMENTS

    rows = []
    for name in ENVIRONMENTS:
        status, why = _environment(name)
        what, how = ABOUT[name]
        rows.append(
            {"name": name, "what": what, "here": status, "how to get it": "" if status == OK else how, "why": why}
        )
    if as_json:
        show(rows)
        return
    table("Environments", [{k: v for k, v in row.items() if k != "why"} for row in rows],
          'Or a subclass of lorasa_rllib.VectorTeamEnv: .environment(YourClass).')  # fmt: skip


def doctor(
    quick: Annotated[bool, typer.Option(help="Leave out what takes seconds: starting Ray, drawing.")] = False,
    as_json: AsJSON = False,
) -> None:
    """Checks this machine: versions, processors, GPUs, environments, rendering, loggers, Ray.

    Exits with status 1 if a required part is broken.

    [bold]Examples[/bold]

      lorasa doctor

      lorasa doctor --quick --json
    """
    rows = [_row("Python", OK, f"{platform.python_version()}, {platform.platform()}")]
    rows += [_row(name, *_version(name)) for name in VERSIONS]
    rows += [_row("processors", OK, f"{_cpus()} usable"), _row("GPUs", *_gpus())]
    rows += [_row(f"environment {name}", *_environment(name)) for name in ABOUT]
    rows += [_row(what, *_optional(*needs)) for what, needs in OPTIONAL.items()]
    if not quick:
        rows.append(_row("drawing MuJoCo", *_program(DRAW, "install libegl1 (Debian), or set MUJOCO_GL=osmesa")))
        rows.append(_row("starting Ray", *_program(RAY, "see the log named in the message")))
    broken = [row for row in rows if row["status"] == BROKEN]
    if as_json:
        show(rows)
    else:
        table("This machine", rows, "Missing parts are optional." if not broken else "Broken parts are needed.")
    if broken:
        raise typer.Exit(1)


DRAW = """
import os
os.environ.setdefault("MUJOCO_GL", "egl")
import mujoco
model = mujoco.MjModel.from_xml_string('<mujoco><worldbody><light pos="0 0 3"/><geom size="1"/></worldbody></mujoco>')
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
renderer = mujoco.Renderer(model, 32, 32)
renderer.update_scene(data)
assert renderer.render().max() > 0, "the picture is black"
print("through", os.environ["MUJOCO_GL"])
"""
RAY = """
import logging, ray, time
began = time.time()
ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
assert ray.get(ray.remote(lambda: 7).remote(), timeout=60) == 7
print(f"a task came back after {time.time() - began:.0f} s")
"""


def _row(what: str, status: str, found: str) -> dict[str, Any]:
    return {"what": what, "status": status, "found": found}


def _version(name: str) -> tuple[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return OK, version(name)
    except PackageNotFoundError:
        return BROKEN, "not installed"


def _environment(name: str) -> tuple[str, str]:
    """Status of an environment (`OK` or `MISSING`), and what is missing."""
    from importlib.util import find_spec

    from lorasa_rllib.envs.registry import environment_class

    missing = [package for package in PACKAGES.get(name, ()) if not _found(find_spec, package)]
    if missing:
        return MISSING, "; ".join(map(missing_part, missing))
    try:
        environment_class(name).check_machine()
    except (ValueError, ImportError) as error:
        return MISSING, str(error)
    return OK, ""


def _found(find_spec: Callable[[str], Any], package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:
        return False


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _gpus() -> tuple[str, str]:
    import torch

    names = [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())]
    build = f"torch built for CUDA {torch.version.cuda}" if torch.version.cuda else "torch built without CUDA"
    return (OK, ", ".join(names)) if names else (MISSING, f"none; {build}")


def _optional(remedy: str, distribution: str, *modules: str) -> tuple[str, str]:
    """Status of an optional part (`OK` or `MISSING`), and the version of its distribution or the remedy."""
    from importlib.util import find_spec

    if not all(_found(find_spec, module) for module in modules):
        return MISSING, remedy
    status, version = _version(distribution)
    return OK, version if status == OK else ""  # another build, such as onnxruntime-gpu


def _program(code: str, remedy: str) -> tuple[str, str]:
    """Status of a check that runs in a subprocess, so that a crash does not end this process; and its output."""
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    except subprocess.TimeoutExpired:
        return BROKEN, f"no answer within 120 s; {remedy}"
    if done.returncode == 0:
        return OK, done.stdout.strip()
    last = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
    return MISSING if code is DRAW else BROKEN, f"{last}; {remedy}"
