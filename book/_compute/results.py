"""The stored results, made again: those whose weights have changed, in order, each with its cost.

    make results                 makes what is stale
    make results LIST=1          lists all, and makes nothing
    make results ONLY=skip       makes these, stale or not (ONLY="skip fewer" for several)

A result is stale if it is not there, or if the sha256 of weights or classifier in its provenance is not that of the package's
manifest, or if it is computed from another result that is stale. A change of a script makes nothing stale: name it with ONLY.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from ddim_core.errors import DataError
from ddim_core.results import load_result
from ddim_core.weights import manifest

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Result:
    """A script and what it costs: minutes on one idle thread of a laptop, about; and what it must be given."""

    name: str
    minutes: float
    options: tuple[str, ...] = ()  # as {data}, {young}, {run}
    after: tuple[str, ...] = ()  # results that it reads


# In this order: a result stands below those that it reads, and the quick ones come first.
RESULTS = (
    Result("mnist_epochs", 0.1, ("{run}",)),
    Result("neighbours", 3, ("--data", "{data}")),
    Result("judge", 5, ("--data", "{data}")),
    Result("skip", 5),
    Result("fewer", 5, after=("skip",)),
    Result("encoding", 5),
    Result("flood", 5),
    Result("slip", 2),
    Result("imputation", 7, ("--each", "2", "--fills", "2")),
    Result("kanji", 8, ("--young", "{young}")),
    Result("ddpm", 10),
    Result("loss_by_t", 20, ("--data", "{data}")),
    Result("measured", 430, ("--keep", "--data", "{data}")),  # all rows; what is stored of these weights stays
)
GIVEN = {  # what the options stand for, and what follows from leaving one out
    "data": "DATA=FOLDER, the one that holds MNIST/raw; without it MNIST is downloaded",
    "young": "YOUNG=FILE, the weights that the kanji network's training was continued from",
    "run": "RUN=FOLDER, the first of the two runs that the shipped digits' weights come from",
}


def why_stale(result: Result, stale: set[str]) -> str:
    """Why a result has to be made again; "" if it need not be."""
    try:
        _, provenance = load_result(result.name)
    except DataError as error:
        return "it is not there" if "no result" in str(error) else "it is damaged"
    known = manifest()
    for key, weights in (
        ("weights_sha256", provenance.get("weights")),
        ("classifier_sha256", "classifier"),
        ("kanji_sha256", "kanji"),
    ):
        if key in provenance and provenance[key] != known[weights]["sha256"]:
            return f"{weights} has changed since {provenance['date']}"
    if read := sorted(stale.intersection(result.after)):
        return f"it reads {', '.join(read)}"
    return ""


def command(result: Result, given: dict[str, str]) -> list[str] | str:
    """What to run; or, as a string, what is missing."""
    options = []
    for option in result.options:
        if option.startswith("{"):
            name = option[1:-1]
            if not given.get(name):
                if name != "data":
                    return GIVEN[name]
                options.pop()  # --data
                continue
            option = given[name]
        options.append(option)
    return ["book/_compute/" + result.name + ".py", *options]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--list", action="store_true", help="make nothing")
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help="make these, stale or not")
    for name, what in GIVEN.items():
        parser.add_argument(f"--{name}", default="", help=what)
    args = parser.parse_args(argv)
    if unknown := set(args.only) - {result.name for result in RESULTS}:
        print(
            f"no result {', '.join(sorted(unknown))}: there are {', '.join(r.name for r in RESULTS)}", file=sys.stderr
        )
        return 2

    stale: dict[str, str] = {}
    for result in RESULTS:
        if why := why_stale(result, set(stale)):
            stale[result.name] = why
    chosen = [r for r in RESULTS if (r.name in args.only if args.only else r.name in stale)]
    given = {name: getattr(args, name) for name in GIVEN}

    if args.list:
        for result in RESULTS:
            cost = f"{result.minutes:g} min" if result.minutes >= 1 else "seconds"
            print(f"{result.name:13}{cost:>8}  {stale.get(result.name) or 'up to date'}")
        if stale:
            total = sum(r.minutes for r in RESULTS if r.name in stale)
            print(f"\n{len(stale)} of {len(RESULTS)} are stale: about {total:.0f} minutes on one idle thread")
        return 0

    left_out = []
    for result in chosen:
        done = command(result, given)
        if isinstance(done, str):
            left_out.append(f"{result.name} is left out: it needs {done}")
            continue
        print(f"{' '.join(done)}  (about {result.minutes:g} minutes)", flush=True)
        if code := subprocess.run([sys.executable, *done], cwd=ROOT, check=False).returncode:
            print(f"{result.name} failed with exit code {code}; those after it were not made", file=sys.stderr)
            return code
    if not chosen:
        print("all results are up to date")
    for line in left_out:
        print(line, file=sys.stderr)
    return 3 if left_out else 0


if __name__ == "__main__":
    sys.exit(main())
