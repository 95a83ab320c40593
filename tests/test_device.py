"""What a machine offers: which device, which arithmetic, how much memory, how many processes."""

from dataclasses import replace

import pytest
import torch
from helpers import TINY, TINY_RUN, tiny_images

from ddim_core.device import Replay, autocast, choose_amp, choose_device, enough_memory, first_alone, processes
from ddim_core.errors import UsageError
from ddim_core.train import Trainer

CPU = torch.device("cpu")


def test_arithmetic_on_the_cpu(monkeypatch):
    assert choose_amp(CPU, "fp32") == "fp32"
    assert choose_amp(CPU, "bf16") == "bf16"
    for avx, amx, expected in [(0, 0, "fp32"), (1, 0, "bf16"), (0, 1, "bf16"), (1, 1, "bf16")]:
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda x=avx: bool(x), raising=False)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda x=amx: bool(x), raising=False)
        assert choose_amp(CPU) == expected
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported")
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported")
    assert choose_amp(CPU) == "fp32", "a torch that cannot say"


@pytest.mark.parametrize(("generation", "expected"), [((7, 5), "fp16"), ((8, 0), "bf16"), ((9, 0), "bf16")])
def test_arithmetic_on_a_gpu(monkeypatch, generation, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: generation)
    assert choose_amp(torch.device("cuda")) == expected
    assert choose_amp(torch.device("cuda"), "fp16") == "fp16"


@pytest.mark.parametrize("name", ["fp64", "", "AUTO", "bfloat16"])
def test_unknown_arithmetic(name):
    with pytest.raises(UsageError, match="amp must be auto, fp32, bf16 or fp16"):
        choose_amp(CPU, name)


def test_fp16_needs_a_gpu():
    with pytest.raises(UsageError, match="fp16 needs a CUDA GPU"):
        choose_amp(CPU, "fp16")


def test_devices():
    assert choose_device("cpu") == CPU
    assert choose_device().type in ("cpu", "cuda", "mps")


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "", "cpu cpu", "meta", "mkldnn", "xla", "hpu", "opengl", "lazy"])
def test_what_is_no_device_or_does_not_compute(name):
    with pytest.raises(UsageError, match=r"cannot be used \(.+\): leave --device out") as e:
        choose_device(name)
    assert "\n" not in str(e.value)


def test_arithmetic_that_is_asked_for_is_the_arithmetic_inside():
    layer, x = torch.nn.Linear(4, 4), torch.ones(1, 4)
    for amp, dtype in [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]:
        with autocast(CPU, amp):
            assert layer(x).dtype == dtype
    assert layer(x).dtype == torch.float32


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        MemoryError("Unable to allocate 3.64 TiB"),
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has ..."),
        RuntimeError("MPS backend out of memory (MPS allocated: 9.05 GB)"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: not enough memory: you tried"),
    ],
    ids=repr,
)
def test_a_lack_of_memory_is_one_line_with_the_remedy(error):
    with pytest.raises(UsageError, match=r"^out of memory: choose less$"), enough_memory("choose less"):
        raise error


def test_a_lack_of_memory_as_torch_says_it_on_this_machine():
    with pytest.raises(UsageError, match="out of memory: choose less"), enough_memory("choose less"):
        torch.empty(10**15)


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), ValueError("out of memory"), OSError(28, "full")])
def test_other_errors_go_through(error):
    with pytest.raises(type(error)) as e, enough_memory("choose less"):
        raise error
    assert e.value is error


def test_one_process_alone_joins_nothing():
    with processes(), first_alone():
        assert not torch.distributed.is_initialized()


@pytest.mark.parametrize(
    ("device", "changes", "said"),
    [
        ("cuda", {"LOCAL_RANK": "99"}, "process 99 has no GPU, of .*: start no more processes, or choose --device cpu"),
        ("cuda:0", {}, "cuda:0 is one GPU for several processes: --device cuda gives one to each"),
        (
            "cpu",
            {"LOCAL_RANK": None},
            "WORLD_SIZE is 2 without LOCAL_RANK: start the processes by torchrun, or unset it",
        ),
        (None, {"RANK": None, "MASTER_PORT": None}, "WORLD_SIZE is 2 without RANK, MASTER_PORT: start"),
    ],
)
def test_several_processes_that_cannot_be(monkeypatch, device, changes, said):
    environment = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "9"}
    for name, value in (environment | changes).items():
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=said), processes(device):
        raise AssertionError("they were joined")


@pytest.mark.parametrize(("device", "backend"), [("cpu", "gloo"), (None, "nccl"), ("cuda", "nccl")])
def test_several_processes_are_joined_by_what_their_device_needs(monkeypatch, device, backend):
    """On a machine with two GPUs, which this one is only said to be."""
    environment = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "9"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    asked = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", asked.append)
    monkeypatch.setattr(torch.distributed, "init_process_group", asked.append)
    for name in ("barrier", "destroy_process_group"):
        monkeypatch.setattr(torch.distributed, name, lambda: None)
    with processes(device):
        assert asked == ([backend] if backend == "gloo" else [1, backend])


def test_where_nothing_is_recorded_every_call_is_the_function():
    """What a GPU records is tested in test_gpu.py."""
    calls = []
    replay = Replay(lambda x, y: calls.append(1) or x + y, enabled=False)
    for k in range(Replay.FIRST + 2):
        assert replay(torch.tensor(1.0), torch.tensor(float(k))).item() == 1 + k
    assert (len(calls), replay.graph) == (Replay.FIRST + 2, None)


def test_a_step_is_recorded_on_a_gpu_alone():
    trainer = Trainer(replace(TINY_RUN, unet=replace(TINY, dropout=0.0)), tiny_images(), device="cpu", amp="fp32")
    trainer.step()
    assert not trainer.replay.enabled
    assert trainer.optimizer.param_groups[0]["lr"] == trainer.lr(0)
