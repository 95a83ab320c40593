"""The stored table of the chapter on what was measured: of which weights, whole, and what its samples say."""

import ast
import json
from pathlib import Path

import numpy as np
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
    assert sorted(map(str, there)) == sorted(map(str, wanted))


def test_distances_drawn_again_are_those_of_the_table(stored, table):
    for row, draws in zip(table["rows"], stored["draws"], strict=True):
        if row["settings"]["n"] < 1000:
            assert np.isnan(draws).all()
            continue
        F = row["figures"]["frechet"]
        assert draws.std() == pytest.approx((F["high"] - F["low"]) / 3.92, rel=0.5), "the interval's, by other draws"
        assert F["value"] < draws.mean() < F["value"] + 20, "copies look like a smaller set"


def test_the_fewest_calls_within_a_margin(stored, table):
    """By hand: each number of calls that was tried, against fifty of first order."""
    of = {}
    for k, row in enumerate(table["rows"]):
        s = row["settings"]
        if (s["eta"], s["spacing"], s["clip"], s["amp"], s["n"]) == (0.0, "uniform", False, "fp32", 1000):
            of[s["steps"], s["order"]] = k
    F = [row["figures"]["frechet"]["value"] for row in table["rows"]]
    usual = of[50, 1]
    for margin, found in zip((1, 2, 3), stored["enough"].tolist(), strict=True):
        for order in (1, 2):
            within = []
            for (calls, o), k in of.items():
                lost = 100.0 * (stored["sure"][usual].astype(float) - stored["sure"][k])
                share = lost.mean() + 2 * lost.std() / 1000**0.5
                distance = F[k] - F[usual] + 2 * (stored["draws"][k] - stored["draws"][usual]).std()
                if o == order and share <= margin and distance <= margin:
                    within.append(calls)
            assert min(within) == found[order - 1]


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
