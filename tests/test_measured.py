"""The stored table of the chapter on what was measured: of which weights, whole, and what its samples say."""

import ast
import json
from pathlib import Path

import pytest

from ddim_core import cli
from ddim_core.evaluate import cells
from ddim_core.results import load_result
from ddim_core.weights import manifest

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = (ROOT / "book" / "_compute" / "measured.py").read_text(encoding="utf-8")
EPOCHS = json.loads((ROOT / "training" / "by_epochs.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def stored():
    return load_result("measured")[0]


@pytest.fixture(scope="module")
def table(stored):
    return json.loads(stored["table"].item())


def asked():
    """The cells of the script's rows, as the command's own parser reads them."""
    names = {
        node.targets[0].id: node.value
        for node in ast.parse(SCRIPT).body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    for row in ast.literal_eval(names["ROWS"]):
        args = cli._parser().parse_args(["evaluate", "--weights", "mnist", "--n", "1000", *row.split()])
        for cell in cells(args.steps, args.eta, args.order, args.spacing, clip=args.clip, n=args.n, n_slow=args.n_slow):
            yield {**cell, "amp": args.amp or "fp32"}


def test_the_rows_are_of_the_shipped_weights_judged_by_the_shipped_classifier(table):
    for row in table["rows"]:
        settings = row["settings"]
        assert settings["weights_sha256"] == manifest()["mnist"]["sha256"]
        assert settings["classifier_sha256"] == manifest()["classifier"]["sha256"]
        assert (settings["seed"], settings["n"]) == (0, 100 if settings["steps"] == 1000 else 1000)
        assert "command" not in row["made"], "it names folders of a machine"


def test_every_row_that_the_script_asks_for_is_there(table):
    wanted = list(asked())
    there = [{key: row["settings"][key] for key in wanted[0]} for row in table["rows"]]
    assert all(cell in there for cell in wanted), [cell for cell in wanted if cell not in there]
    assert len(there) == len({str(cell) for cell in there})


@pytest.mark.parametrize(("name", "figure"), [("sure", "share_sure"), ("inside", "precision")])
def test_samples_and_shares_belong_together(stored, table, name, figure):
    assert len(table["rows"]) == len(stored[name]) == len(stored["images"]) == len(stored["spread"])
    for row, found in zip(table["rows"], stored[name], strict=True):
        n = row["settings"]["n"]
        assert found[:n].mean() == pytest.approx(row["figures"][figure]["value"])
        assert set(found[:n].tolist()) <= {0, 1}
        assert set(found[n:].tolist()) <= {-1}


def test_earlier_weights_are_others_and_the_last_ones_are_those_of_the_table(stored, table):
    known = manifest()["mnist"]["sha256"]
    assert stored["epochs"].tolist()[:-1] == [int(count) for count in EPOCHS]
    hashes = [row["settings"]["weights_sha256"] for row in EPOCHS.values()]
    assert len({*hashes, known}) == len(hashes) + 1
    rows = [
        *EPOCHS.values(),
        next(
            r
            for r in table["rows"]
            if (r["settings"]["steps"], r["settings"]["eta"], r["settings"]["order"], r["settings"]["spacing"])
            == (20, 0.0, 1, "uniform")
        ),
    ]
    for row, found in zip(rows, stored["by_epochs"], strict=True):
        assert [row["figures"][name]["value"] for name in ("frechet", "share_sure")] == found[:, 0].tolist()
        assert "command" not in row["made"]
