"""Names of weights, and the verified file that each stands for.

`find` is the one place that looks at a name. What it returns fetches its file, knows whether that is here
already, and describes weights that are not.
"""

import hashlib
import json
import os
import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from ..cache import cache
from ..errors import CheckpointError, UsageError
from ..files import load_tensors, sha256_file, write_atomically
from ..unet import UNetConfig
from .download import cached_on_hub, fetch_hub, fetch_url, hub_url
from .formats import CIFAR10, FORMAT_B_FILES, file_of, public

__all__ = ["SOURCES", "Hub", "Local", "Source", "find", "manifest", "resolve", "ship", "verified"]

CIFAR10_ON_HUB = "google/ddpm-cifar10-32"
_LARGE = UNetConfig(256, 3, 3, ch=128, ch_mult=(1, 1, 2, 2, 4, 4), attn_resolutions=(16,))
_HUB = re.compile(rf"({CIFAR10_ON_HUB}|google/ddpm-(?:ema-)?(?:celebahq|bedroom|church|cat)-256)(?:@(.*))?")
_HUB_NAMES = (CIFAR10_ON_HUB, *(f"google/ddpm-{what}-256" for what in ("celebahq", "bedroom", "church", "cat")))
_SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")
_DDPM = "DDPM (Ho, Jain, Abbeel 2020)"
_REMEDY = (
    "try again later, or get that file, or the folder of {}, by other means and name it: "
    "load_public(PATH), or --weights PATH"
)


@dataclass(frozen=True)
class Local:
    """A file of weights, or a folder in format B, on this machine; with a sha256, one that came with the package."""

    path: Path
    sha256: str | None = None
    about = None  # the file says what it holds

    def fetch(self) -> Path:
        """The file. Raises CheckpointError where it came with the package and is missing or differs."""
        if self.sha256 and not self.path.is_file():
            raise CheckpointError(f"{self.path}: no such file: install the package again")
        if self.sha256 and sha256_file(self.path) != self.sha256:
            cause = "is damaged (sha256 differs from the manifest)"
            raise CheckpointError(f"{self.path} {cause}: install the package again")
        return file_of(self.path)

    cached = fetch


@dataclass(frozen=True)
class Source:
    """An address that a file of weights is fetched from once, and what it must be.

    Args:
        url: http or https.
        hash: "md5:..." or "sha256:..." of the file, in hexadecimal.

    Raises:
        UsageError: not such a URL or hash.
    """

    url: str
    hash: str

    def __post_init__(self):
        if not re.fullmatch(r"https?://\S+", self.url):
            raise UsageError(f"cannot fetch weights from {self.url!r}: give a URL that starts with https:// or http://")
        if not re.fullmatch(r"md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}", self.hash):
            raise UsageError(f"{self.hash!r} is no hash of a file: give md5: or sha256: and its lower-case hexadecimal")

    @property
    def path(self) -> Path:
        """Its place in the cache, another one for another file."""
        return cache() / "weights" / f"{self.hash.split(':')[1][:16]}.pt"

    def fetch(self) -> Path:
        """The file, verified. Raises as `fetch_url`."""
        return fetch_url(self.url, self.path, self.hash, _REMEDY.format(CIFAR10_ON_HUB))

    def cached(self) -> Path | None:
        """The file, if it need not be downloaded."""
        return self.path if self.path.is_file() else None

    @property
    def about(self) -> dict:
        """What is known of the weights without their file."""
        of = f"{_DDPM} on CIFAR-10, averaged weights, as ported to PyTorch by pesser/pytorch_diffusion"
        return {**public(CIFAR10), "provenance": {"url": self.url, "hash": self.hash, "of": of}}

    @property
    def proof(self) -> str:
        """What the file was compared with."""
        return f"{self.hash}, verified"


@dataclass(frozen=True)
class Hub:
    """A repository of the Hugging Face hub in format B, and a branch, a tag or a commit of it; None for main."""

    repository: str
    revision: str | None = None

    def fetch(self) -> Path:
        """The file of tensors, config.json beside it, verified. Raises as `fetch_hub`."""
        return fetch_hub(self.repository, self.revision, FORMAT_B_FILES, _REMEDY.format(self.repository))

    def cached(self) -> Path | None:
        """The file, if it need not be downloaded."""
        return cached_on_hub(self.repository, self.revision, FORMAT_B_FILES)

    @property
    def about(self) -> dict:
        """What is known of the weights without their file: the network that was published under this name."""
        averaged = "averaged weights" if "-ema-" in self.repository else "whether averaged, its settings do not say"
        of = f"{_DDPM} in the layout of diffusers; {averaged}"
        config = CIFAR10 if self.repository == CIFAR10_ON_HUB else _LARGE
        return {**public(config), "provenance": {"url": hub_url(self.repository, self.revision), "of": of}}

    @property
    def proof(self) -> str:
        """What the file was compared with."""
        return f"sha256:{sha256_file(self.cached())}, as the hub states it"


SOURCES = {
    # the averaged weights of the PyTorch port, format A
    "cifar10": Source(
        "https://heibox.uni-heidelberg.de/f/2e4f01e2d9ee49bab1d5/?dl=1", "md5:1fa350b952534ae442b1d5235cce5cd3"
    )
}


def find(name: str, *kinds: str) -> Local | Source | Hub:
    """What a name stands for: public weights, those that come with the package, or else a path.

    A file or folder with the name of a repository on the hub comes before it. The environment may name a mirror:
    DDIM_CORE_CIFAR10_URL for the same file elsewhere, together with DDIM_CORE_CIFAR10_HASH ("sha256:..." or "md5:...")
    for another file of the same network, in format A as torch saves it. There is no way to go without a hash.

    Args:
        kinds: what will do, of "public", "shipped" and "path"; all if left out.

    Raises:
        UsageError: the name of nothing, or of something else; a URL or hash in the environment that is none.
    """
    kinds = kinds or ("public", "shipped", "path")
    hub, shipped = _HUB.fullmatch(name), {k: v for k, v in manifest().items() if "file" in v}
    path = Path(os.path.expanduser(name))
    is_file = os.sep in name or path.suffix in _SUFFIXES or (name != "" and os.path.exists(path))
    if name in SOURCES and "public" in kinds:
        mirror = [os.environ.get(f"DDIM_CORE_{name.upper()}_{part}") for part in ("URL", "HASH")]
        return Source(mirror[0] or SOURCES[name].url, mirror[1] or SOURCES[name].hash)
    if hub and "public" in kinds and not os.path.exists(path):
        return Hub(hub[1], hub[2] or None)
    if name in shipped and "shipped" in kinds:
        return Local(assets() / shipped[name]["file"], shipped[name]["sha256"])
    if is_file and "path" in kinds:
        return Local(path)
    names = [*(shipped if "shipped" in kinds else ()), *((*SOURCES, *_HUB_NAMES) if "public" in kinds else ())]
    what = "weights" if "shipped" in kinds else "public weights"
    raise UsageError(f"unknown {what} {name!r}: choose one of {', '.join(names)}")


def resolve(name: str, *kinds: str) -> Path:
    """The file of weights that a name stands for, downloaded if need be, and verified; a path is taken as it is.

    Raises:
        UsageError: as `find`. CheckpointError: a file of the package is missing or differs from the manifest.
        UnavailableError: the file has to be downloaded and cannot be. DiskError: the cache cannot be written.
    """
    return find(name, *kinds).fetch()


# --- what comes with the package ---------------------------------------------------------------------------------


def assets() -> Path:
    """The folder of what comes with the package."""
    return Path(str(resources.files("ddim_core"))) / "assets"


def manifest() -> dict:
    """What comes with the package: name -> {"file", "sha256"} for weights, file name -> {"sha256"} for data."""
    return json.loads((assets() / "manifest.json").read_text(encoding="utf-8"))


def verified(name: str) -> Path:
    """As `resolve`, of weights that come with the package only."""
    return resolve(name, "shipped")


def ship(file: str | Path, name: str) -> Path:
    """Copy a file of weights into the package under a name, and enter its sha256 in the manifest; returns the copy.

    For maintainers, in a checkout. Raises CheckpointError for a damaged file, DiskError.
    """
    file = Path(os.path.expanduser(file))
    load_tensors(file)
    content = file.read_bytes()
    target = assets() / f"{name}.safetensors"
    write_atomically(target, content)
    entries = manifest() | {name: {"file": target.name, "sha256": hashlib.sha256(content).hexdigest()}}
    write_atomically(assets() / "manifest.json", (json.dumps(entries, indent=1, sort_keys=True) + "\n").encode())
    return target
