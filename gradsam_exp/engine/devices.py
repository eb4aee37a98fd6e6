"""This module finds the device that a run uses, and checks that there are as many as were asked for."""

import torch

from gradsam_exp.errors import InputError, first_line


def find_device(name: str) -> torch.device:
    """Find the device of this name (``auto``: the first GPU if there is one), or raise `InputError`."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"device={name} cannot be used here ({first_line(error)}); use device=auto or cpu"
        ) from error
    return device


def check_devices(number: int, device: torch.device, *, stored: bool) -> None:
    """Raise `InputError` if a run cannot be shared out over devices, which hand over their work in the store."""
    if number < 1:
        raise InputError(f"devices={number}: must be at least 1")
    if number == 1:
        return
    if not stored:
        raise InputError(
            f"devices={number} hand over their work in the store, but store.enabled=false: "
            "leave it on, or use devices=1"
        )
    if device.type not in {"cpu", "cuda"}:
        raise InputError(f"devices={number}: of {device.type} there is only one; use devices=1")
    if device.index is not None:
        raise InputError(f"devices={number}, but device={device} names one; use device={device.type}")
    if device.type == "cuda" and number > torch.cuda.device_count():
        raise InputError(f"devices={number}: this machine has {torch.cuda.device_count()} GPUs")
