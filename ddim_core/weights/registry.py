"""Names of weights, and the verified file that each stands for.

`find` is the only place that interprets a name. What it returns, a `Local`, a `Source` or a `Hub`, has

    fetch()     (the file, downloaded if it is not here, and verified; what it was compared with, in words)
    cached()    the file if it is here, else None
    about       the description of weights whose file need not be here; None if the file says what it holds
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from .. import shipped
from ..cache import cache
from ..errors import UsageError
from ..unet import UNetConfig
from .download import fetch_hub, fetch_url, hub_url
from .formats import CIFAR10, FORMAT_B_FILES, file_of, public

__all__ = ["SOURCES", "Hub", "Local", "Source", "find", "resolve"]

CIFAR10_ON_HUB = "google/ddpm-cifar10-32"
_LARGE = UNetConfig(256, 3, 3, ch=128, ch_mult=(1, 1, 2, 2, 4, 4), attn_resolutions=(16,))
_HUB = re.compile(rf"({CIFAR10_ON_HUB}|google/ddpm-(?:ema-)?(?:celebahq|bedroom|church|cat)-256)(?:@(.*))?")
_HUB_NAMES = (CIFAR10_ON_HUB, *(f"google/ddpm-{what}-256" for what in ("celebahq", "bedroom", "church", "cat")))
_SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")
_DDPM = "DDPM (Ho, Jain, Abbeel 2020)"
_REMEDY = """try again later, or get that file, or the folder of {}, by other means and name it: load_public(PATH), \
or --weights PATH"""


@dataclass(frozen=True)
class Local:
    """A file of weights, or a folder in format B, on this machine; one with a sha256 came with the package."""

    path: Path
    sha256: str | None = None
    about = None

    def cached(self) -> Path:
        return shipped.checked(self.path, self.sha256) if self.sha256 else file_of(self.path)

    def fetch(self) -> tuple[Path, str]:
        return self.cached(), "the manifest" if self.sha256 else "nothing"


@dataclass(frozen=True)
class Source:
    """A URL from which a file of weights is fetched once, and the hash that the file must have.

    `url`: http or https; `hash`: "md5:..." or "sha256:..." of the file, in hexadecimal. Raises UsageError for others.
    """

    url: str
    hash: str

    def __post_init__(self):
        if not re.fullmatch(r"https?://\S+", self.url):
            raise UsageError(f"cannot fetch weights from {self.url!r}: give a URL that starts with https:// or http://")
        if not re.fullmatch(r"md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}", self.hash):
            raise UsageError(
                f"{self.hash!r} is not the hash of a file: give md5: or sha256: and lower-case hexadecimal digits"
            )

    @property
    def path(self) -> Path:
        """Its place in the cache, a different one for a different file."""
        return cache() / "weights" / f"{self.hash.split(':')[1][:16]}.pt"

    def fetch(self) -> tuple[Path, str]:
        return fetch_url(self.url, self.path, self.hash, _REMEDY.format(CIFAR10_ON_HUB)), f"{self.hash}, verified"

    def cached(self) -> Path | None:
        return self.path if self.path.is_file() else None

    @property
    def about(self) -> dict:
        of = f"{_DDPM} on CIFAR-10, averaged weights, as ported to PyTorch by pesser/pytorch_diffusion"
        return {**public(CIFAR10), "provenance": {"url": self.url, "hash": self.hash, "of": of}}


@dataclass(frozen=True)
class Hub:
    """A repository of the Hugging Face hub in format B, and a branch, a tag or a commit of it; None for main."""

    repository: str
    revision: str | None = None

    def fetch(self) -> tuple[Path, str]:
        return fetch_hub(self.repository, self.revision, FORMAT_B_FILES, _REMEDY.format(self.repository))

    def cached(self) -> Path | None:
        from huggingface_hub import try_to_load_from_cache  # half a second of imports, needed here only

        found = (try_to_load_from_cache(self.repository, file, revision=self.revision) for file in FORMAT_B_FILES)
        return next((Path(path) for path in found if isinstance(path, str)), None)

    @property
    def about(self) -> dict:
        averaged = "averaged weights" if "-ema-" in self.repository else "its settings do not say whether averaged"
        of = f"{_DDPM} in the layout of diffusers; {averaged}"
        config = CIFAR10 if self.repository == CIFAR10_ON_HUB else _LARGE
        return {**public(config), "provenance": {"url": hub_url(self.repository, self.revision), "of": of}}


# public weights that are known by name, and where they come from
SOURCES = {
    # the averaged weights of the PyTorch port, format A
    "cifar10": Source(
        "https://heibox.uni-heidelberg.de/f/2e4f01e2d9ee49bab1d5/?dl=1", "md5:1fa350b952534ae442b1d5235cce5cd3"
    )
}


def find(name: str | Path, *kinds: str) -> Local | Source | Hub:
    """What a name stands for: public weights, those that come with the package, or else a path; a `Path` is no name.

    A file or folder with the name of a repository on the hub takes precedence over it. The environment may name a
    mirror: DDIM_CORE_CIFAR10_URL for the same file elsewhere, together with DDIM_CORE_CIFAR10_HASH ("sha256:..." or
    "md5:...") for another file of the same network, in format A as torch saves it. A hash is always required.

    Args:
        kinds: which of "public", "shipped" and "path" are wanted; by default all.

    Raises:
        UsageError: an unknown name, or one of another kind; a path where a name is wanted; a URL or hash in the
            environment that is not one.
        CheckpointError: the manifest of the package is missing or damaged.
    """
    kinds = kinds or ("public", "shipped", "path")
    if isinstance(name, os.PathLike):  # as a string, Path("./mnist") would be a name
        if "path" not in kinds:
            raise UsageError(f"{str(name)!r} is a path, not a name: load files with load_weights or load_public")
        return Local(Path(os.path.expanduser(name)))
    hub, path = _HUB.fullmatch(name), Path(os.path.expanduser(name))
    if name in SOURCES and "public" in kinds:
        mirror = [os.environ.get(f"DDIM_CORE_{name.upper()}_{part}") for part in ("URL", "HASH")]
        return Source(mirror[0] or SOURCES[name].url, mirror[1] or SOURCES[name].hash)
    if hub and "public" in kinds and not os.path.exists(path):
        return Hub(hub[1], hub[2] or None)
    ours = {k: v for k, v in shipped.manifest().items() if "file" in v} if "shipped" in kinds else {}
    if name in ours:
        return Local(shipped.assets() / ours[name]["file"], ours[name]["sha256"])
    if "path" in kinds and (os.sep in name or path.suffix in _SUFFIXES or (name != "" and os.path.exists(path))):
        return Local(path)
    names = [*ours, *((*SOURCES, *_HUB_NAMES) if "public" in kinds else ())]
    what = "weights" if "shipped" in kinds else "public weights"
    raise UsageError(f"unknown {what} {name!r}: choose one of {', '.join(names)}")


def resolve(name: str | Path, *kinds: str) -> Path:
    """The file of weights that a name stands for, downloaded if need be, and verified; a path is taken as it is.

    Raises as `find`; CheckpointError if a file of the package is missing or differs from the manifest;
    UnavailableError and DiskError if one has to be downloaded and cannot be, or cannot be written.
    """
    return find(name, *kinds).fetch()[0]
