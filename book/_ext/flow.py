"""The picture of how an image flows through the package, as SVG inside the page: it takes the colours of the page, light or
dark, and each of its names leads to the entry of that name.

    ```{flow}
    ```
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from html import escape
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

API = Path(__file__).resolve().parents[1] / "api"

WIDTH, HEIGHT = 360, 596  # of a phone's column: nothing shrinks there
BOX, TALL, LEFT, RIGHT = 150, 50, 20, 190


@dataclass(frozen=True)
class Box:
    """A station: where it stands, what an image is there, the name that brings it there, the colour it has in all figures."""

    x: int
    y: int
    says: str
    name: str
    colour: str
    width: int = BOX


BOXES = (
    Box(LEFT, 34, "images, uint8", "ddim_core.data.load_dataset", "signal"),
    Box(LEFT, 112, "x₀ in [−1, 1]", "ddim_core.data.to_model", "signal"),
    Box(LEFT, 190, "xₜ at random times", "ddim_core.schedule.add_noise", "plain"),
    Box(RIGHT, 34, "noise, from a seed", "ddim_core.seeds.image_noise", "noise"),
    Box(RIGHT, 190, "xₜ, from t = T on", "ddim_core.sample.sample", "plain"),
    Box(LEFT, 276, "the network’s guess of the noise", "ddim_core.unet.UNet", "prediction", RIGHT + BOX - LEFT),
    Box(LEFT, 362, "loss, one step", "ddim_core.train.Trainer", "plain"),
    Box(LEFT, 440, "a run’s folder", "ddim_core.launch.launch", "plain"),
    Box(LEFT, 518, "a file of weights", "ddim_core.weights.export", "plain"),
    Box(RIGHT, 362, "xₛ, a smaller time", "ddim_core.sample.ddim_step", "plain"),
    Box(RIGHT, 440, "x₀, at time 0", "ddim_core.sample.generate", "signal"),
    Box(RIGHT, 518, "a sheet; a judgement", "ddim_core.metrics.confidence", "plain"),
)
ARROWS = (  # as SVG paths
    "M95 84 V110",
    "M95 162 V188",
    "M95 240 V274",
    "M265 84 V188",
    "M190 59 H180 V215 H172",  # noise into the mixture
    "M265 240 V274",
    "M95 326 V360",
    "M265 326 V360",
    "M95 412 V438",
    "M95 490 V516",
    "M265 412 V438",
    "M265 490 V516",
    "M340 387 H352 V215 H342",  # and again, until t = 0
    "M20 543 H8 V301 H18",  # the weights come back
)
ABOUT = (
    "Two columns. Left, to learn: load_dataset gives images as uint8, to_model brings them to the range from -1 to 1, add_noise "
    "mixes them with noise at random times, the network guesses the noise, Trainer compares and takes a step, launch keeps the "
    "run in a folder, and export makes a file of weights of it, which goes back into the network. Right, to draw: image_noise "
    "makes noise from a seed, sample gives the state x_t to the network, ddim_step goes to a smaller time with its guess, and "
    "back up to sample until time 0, where generate returns the images, which confidence judges."
)


def page_of(module: str) -> str:
    """The page that a module stands on."""
    for path in API.glob("*.md"):
        if re.search(rf"^\.\. api:: {re.escape(module)}$", path.read_text(encoding="utf-8"), re.MULTILINE):
            return path.stem
    raise KeyError(f"{module} is on no page of {API}")


def picture() -> str:
    """The SVG, to stand in book/architecture.html."""
    out = [
        f'<svg class="ddim-flow" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" role="group" aria-labelledby="flow-about">',
        f'<title id="flow-about">{escape(ABOUT)}</title>',
        '<defs><marker id="flow-tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 L8 4 L0 8 z" class="tip"/></marker></defs>',
        f'<text x="{LEFT + BOX / 2}" y="20" class="head">to learn</text>',
        f'<text x="{RIGHT + BOX / 2}" y="20" class="head">to draw</text>',
    ]
    out += [f'<path d="{path}" class="arrow" marker-end="url(#flow-tip)"/>' for path in ARROWS]
    for box in BOXES:
        module, _, name = box.name.rpartition(".")
        middle = box.x + box.width / 2
        out += [
            f'<rect x="{box.x}" y="{box.y}" width="{box.width}" height="{TALL}" rx="6" class="{box.colour}"/>',
            f'<text x="{middle}" y="{box.y + 20}">{escape(box.says)}</text>',
            f'<a href="api/{page_of(module)}.html#{box.name}"><text x="{middle}" y="{box.y + 39}" class="name">{name}</text></a>',
        ]
    return "\n".join([*out, "</svg>"])


class Flow(SphinxDirective):
    """The picture, where it stands."""

    def run(self) -> list[nodes.Node]:
        return [nodes.raw("", f'<figure class="align-center">{picture()}</figure>', format="html")]


def setup(app: Sphinx) -> None:
    app.add_directive("flow", Flow)
