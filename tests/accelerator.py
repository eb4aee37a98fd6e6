"""A CUDA device that is not there: it computes shapes and devices only; mixing devices fails as on a real one.

Tensors on it are `FakeTensor`. What is read back from it (``.cpu()``, ``.item()``, ``.tolist()``) is 0 or False,
so that code which needs values goes on. Tensors on the CPU are real.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils._pytree import tree_any, tree_map_only


class _Pretended(FakeTensorMode):
    """Computes what concerns the device on fake tensors, and everything else as it is."""

    inside = False  # of an operation, which may call others to make its fake tensors

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.inside:
            return super().__torch_dispatch__(func, types, args, kwargs)
        there = kwargs.get("device") is not None and torch.device(kwargs["device"]).type == "cuda"
        if not there and not tree_any(lambda value: isinstance(value, FakeTensor), (args, kwargs)):
            return func(*args, **kwargs)
        if func is torch.ops.aten._local_scalar_dense.default:
            return torch.zeros((), dtype=args[0].dtype).item()
        self.inside = True
        try:
            result = super().__torch_dispatch__(func, types, args, kwargs)
        finally:
            self.inside = False
        return tree_map_only(FakeTensor, _read_if_on_the_cpu, result)


def _read_if_on_the_cpu(value: FakeTensor) -> torch.Tensor:
    return value if value.device.type == "cuda" else torch.zeros(value.shape, dtype=value.dtype)


@contextmanager
def pretended_accelerator() -> Iterator[torch.device]:
    """Yields the device, which exists while the context lasts."""
    with _Pretended(allow_non_fake_inputs=True, shape_env=ShapeEnv()):
        yield torch.device("cuda")
