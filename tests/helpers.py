"""What several test files need: a network small enough to train in a second, seeded tensors, distances."""

import json
import os
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import torch
from torch import Tensor

from ddim_core import UNet, UNetConfig
from ddim_core.recipes import TrainConfig
from ddim_core.train import Trainer

ENV = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default"}
PYTHON = sys.executable
TINY = UNetConfig(8, ch=8, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(4,), dropout=0.1, norm_groups=4)

TINY_RUN = TrainConfig(TINY, epochs=3, batch_size=8, lr=3e-3, warmup=3)  # 5 steps per epoch on `tiny_images`
TINY_28 = TrainConfig(UNetConfig(28, ch=4, ch_mult=(1, 1, 1), num_res_blocks=1, norm_groups=2), batch_size=8, warmup=5)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64).to(dtype)


def randomised(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """All parameters random and none without effect; of the size that PyTorch gives them at first."""
    generator = seeded(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
            if p.ndim > 1:
                p.mul_(0.5 * p[0].numel() ** -0.5)
            elif name.endswith("bias"):
                p.mul_(0.1)
            else:  # the scale of a normalisation
                p.mul_(0.3).add_(1)
    return model


def tiny_unet(seed: int = 0, config: UNetConfig = TINY) -> UNet:
    return randomised(UNet(config), seed).eval()


def denoiser(xt: Tensor, t: Tensor) -> Tensor:
    """Some smooth function of image and time, in place of a network."""
    return torch.sin(3 * xt) * 0.7 + 0.3 * torch.cos(t.to(xt.dtype) / 100).view(-1, *[1] * (xt.ndim - 1))


def relative(a: Tensor, b: Tensor) -> float:
    """||a - b|| / ||b||"""
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


def tiny_images(n: int = 43, seed: int = 0) -> Tensor:
    """Blobs, so that there is something to learn; 43 are 5 batches of 8 and a rest."""
    x = torch.nn.functional.avg_pool2d(randn(n, 1, 12, 12, seed=seed), 5, 1)
    return (x * 300 + 128).clamp(0, 255).to(torch.uint8)


def scenario(name: str, folder: Path) -> dict:
    """What a function of scenarios.py reports of its processes."""
    script = Path(__file__).with_name("scenarios.py")
    done = subprocess.run([PYTHON, script, name, folder], env=ENV, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@contextmanager
def listening(handler: type[BaseHTTPRequestHandler]):
    """A server on loopback: its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def served(content: bytes, *replies: str | int):
    """A file server on loopback: (URL, list of the replies given so far).

    Replies, the last one again and again: "whole", "cut" (half of the file, then the connection ends), "page" (a web
    page with status 200), or a status.
    """
    given: list[str | int] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            reply = replies[min(len(given), len(replies) - 1)]
            given.append(reply)
            body = b"\n<!DOCTYPE html><title>Sign in</title>" * 9 if reply == "page" else content
            self.send_response(reply if isinstance(reply, int) else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if reply == "cut" else body)

        def log_message(self, *args):
            pass

    with listening(Handler) as address:
        yield f"{address}/ema.ckpt?dl=1", given


# --- runs of a tiny recipe -------------------------------------------------------------------------------------------

IMAGES = tiny_images()
QUIET = replace(TINY_RUN, unet=replace(TINY, dropout=0.0))


def trainer(config=TINY_RUN, images=IMAGES, amp="fp32"):
    return Trainer(config, images, device="cpu", amp=amp)


def losses(steps):
    return [step.loss.item() for step in steps]


def run_state(t):
    """All that a run is, to the last bit."""
    tensors = {f"model.{k}": v.clone() for k, v in t.model.state_dict().items()}
    tensors |= {f"ema.{k}": v.clone() for k, v in t.ema.state_dict().items()}
    for i, s in t.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{i}.{k}": v.clone() for k, v in s.items()}
    return tensors


def assert_same(a, b):
    a, b = run_state(a), run_state(b)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[k], b[k]) for k in a), [k for k in a if not torch.equal(a[k], b[k])]
