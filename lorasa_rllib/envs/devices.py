"""Devices on which environments compute."""

from __future__ import annotations

import torch


def checked_device(device: str | torch.device) -> torch.device:
    """The device named in `env_config`. Raises ValueError if this machine does not have it."""
    try:
        found = torch.device(device)
    except RuntimeError:
        raise ValueError(f'device={device!r} is not a device; use "cpu", "cuda", or a GPU such as "cuda:1".') from None
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device={str(device)!r} asks for a GPU, but PyTorch finds {torch.cuda.device_count()} of them in this "
            'process. Use device="cpu", or give env runners a GPU: .env_runners(num_gpus_per_env_runner=1).'
        )
    if found.type not in ("cpu", "cuda"):
        raise ValueError(f'device={str(device)!r} is not supported; use "cpu" or "cuda".')
    return found
