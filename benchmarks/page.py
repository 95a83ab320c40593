"""Write the book's page on speed from the stored results of speed.py.

    python benchmarks/page.py     writes book/speed.md anew

tests/test_benchmark.py fails when the page is not what this script writes.
"""

import json
from pathlib import Path

from ddim_core.results import load_result

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "book" / "speed.md"

HEAD = """\
# Speed

How fast is the network of this book, compared with the implementation in the note from which the book grew and with that of
`diffusers`? One command times all of them in one process, in turns, with the same shape, batch and machine:

    python benchmarks/speed.py --batch 64 \\
        --out benchmarks/results/NAME.json
    python benchmarks/page.py

A *sampling* row is one call of the network; divide it by $S$ for finished samples per second. A *training* row is a whole step:
forward, backward, Adam, and in our case the averaging of weights. The note and `diffusers` have the original settings (dropout
0.1 and 32 groups in GroupNorm), ours those of the recipe `mnist`, unless the row says otherwise. The ratio is the median over
rounds of the ratio to the note's network in the same round. The share of peak is relative to what the same machine reaches in
large matrix multiplications. MiB is the largest amount of memory that a GPU held for it at once.

What a user waits for is a good digit, not a call. [](measured.ipynb) finds, for our weights and of the numbers tried there, the fewest calls of
each order at most two worse than fifty of first order, in points of the share that convinces and in Fréchet distance; a second table gives the pace at that *nearly equal quality*, as multiples of the note's network and fifty calls.
"""


def machine(m: dict) -> str:
    """The machine in words."""
    what = m.get("gpu") or f"{m['cpu']}, {m['threads']} thread{'s' if m['threads'] != 1 else ''}"
    return f"{what}, torch {m['torch'].partition('+')[0]}, {m['date'].split()[0]}"


def table(rows: list[dict]) -> str:
    """Rows of one mode and batch as a table of markdown."""
    memory = any(r.get("memory_mib") for r in rows)  # known on a GPU only
    names = ["network", "images per second", "ratio to the note", "share of peak", *["MiB"] * memory]
    lines = [f"| {' | '.join(names)} |", "|---|" + "---:|" * (len(names) - 1)]
    for r in rows:
        cells = [r["contestant"].replace("channels_last", "channels last")]
        if r["error"]:
            cells += [r["error"], *[""] * (len(names) - 2)]
        else:
            cells += [
                f"{r['images_per_second']:,.0f}",
                f"{r['ratio_to_note']:.2f}",
                f"{100 * r['share_of_peak']:.1f} %",
            ]
            cells += [f"{r['memory_mib']:,.0f}" for _ in range(memory)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def equal_quality(rows: list[dict]) -> str:
    """How many times faster than the note's fifty calls each network draws digits nearly as good, for the calls that are enough."""
    first, second = load_result("measured")[0]["enough"][1].tolist()  # within two points
    lines = [f"| network | {first} calls, first order | {second} calls, second order |", "|---|---:|---:|"]
    for r in rows:
        if not r["error"]:
            times = (f"{50 / calls * r['ratio_to_note']:.1f}" for calls in (first, second))
            lines.append(f"| {r['contestant'].replace('channels_last', 'channels last')} | {' | '.join(times)} |")
    return "\n".join(lines) + "\n"


def section(path: Path) -> str:
    """What one file of results says."""
    report = json.loads(path.read_text(encoding="utf-8"))
    peaks = ", ".join(f"{name} {value / 1e12:.3g}" for name, value in report["peak_flops"].items())
    parts = [f"## {machine(report['machine'])}\n", f"Peak, in TFLOP/s: {peaks}.\n"]
    keys = dict.fromkeys((r["mode"], r["batch"]) for r in report["rows"])
    for mode, batch in sorted(keys):
        word = {"sample": "Sampling", "train": "Training"}[mode]
        parts += [
            f"**{word}, batch {batch}**\n",
            table(rows := [r for r in report["rows"] if (r["mode"], r["batch"]) == (mode, batch)]),
        ]
        if mode == "sample":
            parts += [
                "Good digits per second, as multiples of the note's network with fifty calls:\n",
                equal_quality(rows),
            ]
    remarks = path.with_suffix(".md")
    if remarks.exists():
        parts.append(remarks.read_text(encoding="utf-8"))
    return "\n".join(parts)


def page() -> str:
    """The whole page."""
    return "\n".join([HEAD, *(section(path) for path in sorted(RESULTS.glob("[!.]*.json")))])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)
