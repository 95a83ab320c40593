"""A device without float64, as Apple's GPUs are, on any machine: tensors whose numbers lie on the CPU and that say otherwise.

They name the device "meta", which every build of torch knows and none computes on. Every operation that would give
float64 there is refused in MPS's words, and so is one that mixes them with tensors of the CPU.
"""

from contextlib import contextmanager

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map, tree_map_only

DEVICE = torch.device("meta")
aten = torch.ops.aten


class There(Tensor):
    """A tensor on the device; `here` holds its numbers."""

    @staticmethod
    def __new__(cls, here: Tensor):
        if here.dtype == torch.float64:
            raise TypeError(
                "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64."
            )
        layout = {"strides": here.stride(), "storage_offset": here.storage_offset(), "dtype": here.dtype}
        return Tensor._make_wrapper_subclass(cls, here.size(), device=DEVICE, **layout)

    def __init__(self, here: Tensor):
        self.here = here

    def __repr__(self) -> str:
        return f"There({self.here})"

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return dispatch(func, args, kwargs or {})


def dispatch(func, args, kwargs):
    there, foreign = [], []

    def bare(x):
        if isinstance(x, There):
            there.append(x)
            return x.here
        if isinstance(x, Tensor) and x.ndim:
            foreign.append(x)
        return x

    bare_args, bare_kwargs = tree_map(bare, (args, kwargs))
    device = kwargs.get("device")
    to_there = bool(there) if device is None else torch.device(device) == DEVICE
    if device is not None:
        bare_kwargs["device"] = torch.device("cpu") if to_there else device
    if func is aten.copy_.default:  # the one way between devices, besides .to
        func(*bare_args, **bare_kwargs)
        return args[0]
    if there and foreign:
        raise RuntimeError(f"Expected all tensors to be on the same device: {func}")
    answer = func(*bare_args, **bare_kwargs)
    if not to_there:
        return answer
    known = {id(x.here): x for x in there}  # what was changed in place is the same tensor
    return tree_map_only(Tensor, lambda x: known.get(id(x)) if id(x) in known else There(x), answer)


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return dispatch(func, args, kwargs or {})


class _Functions(TorchFunctionMode):
    """What torch makes from numbers comes by way of the CPU, and generators of the device are the CPU's."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        device = kwargs.get("device")
        if func in (torch.tensor, torch.as_tensor) and device is not None and torch.device(device) == DEVICE:
            return func(*args, **{**kwargs, "device": "cpu"}).to(DEVICE)
        return func(*args, **kwargs)


@contextmanager
def device_without_float64(monkeypatch):
    """Inside, `DEVICE` is one."""
    make = torch.Generator

    class Generator(make):
        def __new__(cls, device="cpu"):
            return make("cpu" if torch.device(device) == DEVICE else device)

    monkeypatch.setattr(torch, "Generator", Generator)
    with _Operations(), _Functions():
        yield DEVICE
