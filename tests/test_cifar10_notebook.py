"""The chapter on colour in both its cases: with weights of the public network's names and shapes, and with none."""

import base64
import hashlib
import io
import json
import re
import shutil
import subprocess
from pathlib import Path

import torch
from helpers import ENV, PYTHON, randomised, served
from PIL import Image

from ddim_core import UNet
from ddim_core.weights.formats import CIFAR10

CHAPTER = Path(__file__).parents[1] / "book" / "cifar10.ipynb"
NOWHERE = "http://127.0.0.1:9"  # nothing listens there
WITH_IMAGES = ["cifar-opening", "cifar-dial-images", "cifar-slip-colour", "cifar-grid-images"]


def executed(folder: Path, url: str, file_hash: str) -> dict[str, str]:
    """What the cells of the chapter wrote, as one text each, when it is run in `folder` with weights from `url`."""
    shutil.copy(CHAPTER, folder)
    environment = {
        **ENV,
        "PYTHONWARNINGS": "error::ResourceWarning",
        "DDIM_QUICK": "1",
        "DDIM_CORE_CACHE": str(folder / "cache"),
        "DDIM_CORE_CIFAR10_URL": url,
        "DDIM_CORE_CIFAR10_HASH": file_hash,
        **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), NOWHERE),
        **dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1"),
    }
    command = [Path(PYTHON).with_name("jupyter-execute"), "--timeout=600", "--inplace", CHAPTER.name]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr[-3000:]
    written = {}
    for cell in json.loads((folder / CHAPTER.name).read_text(encoding="utf-8"))["cells"]:
        outputs = cell.get("outputs", [])
        assert not [o["text"] for o in outputs if o.get("name") == "stderr"], cell["id"]  # a fault in the built book
        shown = [{"text": o.get("text", ""), **o.get("data", {})} for o in outputs]
        texts = [o[kind] for o in shown for kind in ("text", "text/html", "text/markdown") if kind in o]
        written[cell["id"]] = "".join("".join(text) for text in texts)
    return written


def images(text: str) -> list[Image.Image]:
    found = re.findall(r'<img alt="[^"]+" src="data:image/png;base64,([^"]+)">', text)
    return [Image.open(io.BytesIO(base64.b64decode(data))) for data in found]


def test_with_weights_every_section_shows_its_images(tmp_path):
    buffer = io.BytesIO()
    torch.save(randomised(UNet(CIFAR10)).state_dict(), buffer)
    content = buffer.getvalue()
    with served(content, "whole") as (url, given):
        written = executed(tmp_path, url, f"sha256:{hashlib.sha256(content).hexdigest()}")
    assert given == ["whole"]  # fetched, and once
    for name in WITH_IMAGES:
        (image,) = images(written[name])
        colours = image.convert("RGB").getcolors(1 << 20)
        assert sum(count for count, rgb in colours if len(set(rgb)) > 1) > 1000, name  # pixels that are not grey
    assert "the public weights" in written["cifar-cost"]
    assert written["cifar-slip-colour"].count("grey levels apart") == 2
    assert not re.search(r"images are missing|needs the weights", "".join(written.values()))


def test_without_weights_it_runs_to_its_end_and_says_what_is_missing(tmp_path):
    written = executed(tmp_path, f"{NOWHERE}/ema.ckpt", "sha256:" + "0" * 64)
    assert not images("".join(written.values()))
    assert "images are missing" in written["cifar-opening"]
    assert "ddim sample --weights cifar10" in written["cifar-opening"]
    assert all("needs the weights" in written[name] for name in WITH_IMAGES[1:])
    assert "roughness" in written["cifar-clouds-images"]  # colour with a known answer, which needs none
    assert "grey levels of 255" in written["cifar-slip-images"]
    assert "random weights" in written["cifar-cost"]
    assert "12.44 GFLOP" in written["cifar-network"]
    assert written["cifar-solution-work"]
