"""What a machine offers: its device, the arithmetic that is fast on it, its memory, and several processes at once."""

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
import torch.distributed as dist

from .errors import UsageError

__all__ = [
    "Replay",
    "autocast",
    "choose_amp",
    "choose_device",
    "enough_memory",
    "first_alone",
    "in_float64",
    "processes",
    "widest",
]

_AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
_FAST_BF16 = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # torch has no public name for these
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")  # a GPU, a CPU, a CPU under Windows


def choose_device(name: str | None = None) -> torch.device:
    """The device of that name ("cuda", "cuda:1", "mps", "cpu", ...), or the best there is.

    Raises:
        UsageError: this machine has no such device, or it cannot compute (as "meta", which holds shapes only).
    """
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of names that torch gives up: they are refused anyway
            device = torch.device(name)
        torch.ones(1, device=device).add(1).item()
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(f"device {name!r} cannot be used ({reason}): leave --device out") from error
    return device


def choose_amp(device: torch.device, name: str = "auto") -> str:
    """Arithmetic of the forward pass: "fp32", "bf16" or "fp16"; "auto" takes bf16 where it is fast, and fp16 (with a
    gradient scaler) on GPUs too old for it.

    Raises:
        UsageError: an unknown name, or fp16 on a device other than a CUDA GPU.
    """
    if name != "auto" and name not in _AUTOCAST:
        raise UsageError(f"amp must be auto, fp32, bf16 or fp16, got {name!r}")
    if name == "fp16" and device.type != "cuda":
        raise UsageError("amp fp16 needs a CUDA GPU: use auto")
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device)[0] >= 8 else "fp16"
    if device.type == "cpu" and any(getattr(torch.cpu, f, bool)() for f in _FAST_BF16):
        return "bf16"
    return "fp32"


def autocast(device: torch.device, amp: str) -> AbstractContextManager:
    """What a network runs inside of, to compute in `amp`: "fp32" (as its parameters are), "bf16" or "fp16"."""
    dtype = _AUTOCAST[amp]
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def widest(device: torch.device) -> torch.dtype:
    """The floats of most digits that a device has: float64; float32 on Apple's GPUs."""
    try:
        return torch.empty((), dtype=torch.float64, device=device).dtype
    except (TypeError, RuntimeError):  # devices say it in different words
        return torch.float32


def in_float64(x: torch.Tensor) -> torch.Tensor:
    """A tensor of any shape in float64: on its device, or on the CPU where its device has no such numbers."""
    return x.double() if widest(x.device) == torch.float64 else x.cpu().double()


class Replay:
    """A function of tensors that a CUDA GPU, after a few calls, records as one graph of kernels and replays from then on.

    The function must do the same at every call, for tensors of the same shapes, without waiting for the GPU; what it
    changes besides its result (parameters, an optimiser's state) must stay in its place in memory, or be forgotten here.

    Args:
        function: takes tensors, returns a tensor. enabled: False only ever calls it.
    """

    FIRST = 3  # calls before it is recorded: they allocate, compile and choose what stays

    def __init__(self, function: Callable[..., torch.Tensor], enabled: bool):
        self.function, self.enabled = function, enabled
        self.stream: torch.cuda.Stream | None = None
        self.forget()

    def forget(self) -> None:
        """Record anew: what the function works on has moved."""
        self.calls = 0
        self.graph: torch.cuda.CUDAGraph | None = None
        self.inputs: list[torch.Tensor] = []
        self.output: torch.Tensor | None = None

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
        if self.enabled and self.graph is None:
            with torch.cuda.device(inputs[0].device):
                if self.calls < self.FIRST:
                    return self._aside(inputs)
                self._record(inputs)
        if not self.enabled:
            return self.function(*inputs)
        torch._foreach_copy_(self.inputs, list(inputs))
        self.graph.replay()
        return self.output.clone()

    def _aside(self, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """In the stream in which it will be recorded, which cannot be the default one."""
        self.stream, self.calls = self.stream or torch.cuda.Stream(), self.calls + 1
        here = torch.cuda.current_stream()
        self.stream.wait_stream(here)
        with torch.cuda.stream(self.stream):
            output = self.function(*inputs)
        here.wait_stream(self.stream)
        return output

    def _record(self, inputs: tuple[torch.Tensor, ...]) -> None:
        self.inputs, graph = [x.clone() for x in inputs], torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=self.stream):
                self.output = self.function(*self.inputs)
            self.graph = graph
        except RuntimeError as error:
            self.enabled = False
            warnings.warn(f"not replayed as a CUDA graph, and so slower: {str(error).splitlines()[0]}", stacklevel=2)


@contextmanager
def enough_memory(remedy: str) -> Iterator[None]:
    """Where memory runs out inside, end in one line that names the remedy.

    On a CPU this holds for what the operating system refuses; what it promised and cannot give ends the process.

    Raises:
        UsageError: memory ran out.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # torch raises RuntimeErrors, told apart by what they say only
        if not isinstance(error, MemoryError) and not any(words in str(error).lower() for words in _OUT_OF_MEMORY):
            raise
        raise UsageError(f"out of memory: {remedy}") from error


@contextmanager
def processes(device: str | None = None) -> Iterator[None]:
    """Under torchrun, join the other processes for a while: by NCCL, each on its own GPU, or by gloo; else do nothing.

    Args:
        device: by name, as for `choose_device`; "cuda", or none where there are GPUs, stands for a GPU each.

    Raises:
        UsageError: fewer GPUs than processes, one GPU ("cuda:0") for all, or an environment that torchrun did not set.
    """
    if (world := os.environ.get("WORLD_SIZE", "1")) == "1":
        yield
        return
    if missing := [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]:
        raise UsageError(
            f"WORLD_SIZE is {world} without {', '.join(missing)}: start the processes by torchrun, or unset it"
        )
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = device.partition(":")
    if kind == "cuda":
        _take_gpu(number, int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if kind == "cuda" else "gloo")
    try:
        dist.barrier()  # nobody leaves, for a fault of its own, before all have joined
        yield
    finally:
        dist.destroy_process_group()


def _take_gpu(number: str, rank: int) -> None:
    """Make the GPU with the process's number on this machine its own. Raises UsageError as `processes`."""
    if number:
        raise UsageError(f"cuda:{number} is one GPU for several processes: --device cuda gives one to each")
    if rank >= (count := torch.cuda.device_count()):
        raise UsageError(f"process {rank} has no GPU, of {count} here: start no more processes, or choose --device cpu")
    torch.cuda.set_device(rank)


@contextmanager
def first_alone() -> Iterator[None]:
    """What is done inside is done by the first process alone, then by the others: for downloads, and for files.

    If the first fails, which it says itself, the others do nothing and end with its exit code, by SystemExit.
    """
    if not dist.is_initialized():
        yield
        return
    code = [0]
    if dist.get_rank() == 0:
        try:
            yield
        except BaseException as error:
            code = [getattr(error, "exit_code", 1)]
            raise
        finally:
            dist.broadcast_object_list(code)
    else:
        dist.broadcast_object_list(code)
        if code[0]:
            raise SystemExit(code[0])
        yield
