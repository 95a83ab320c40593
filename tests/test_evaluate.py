"""Samples judged by the classifier, and how that is trained, on few real digits in place of MNIST."""

import dataclasses
import io
import json
import os
import re
from collections import Counter

import numpy as np
import pytest
import torch
from helpers import TINY_28, randomised, tiny_unet

from ddim_core import UNet, metrics
from ddim_core import evaluate as judging
from ddim_core.data import load_dataset, to_uint8
from ddim_core.drawing import Drawing
from ddim_core.errors import DataError, DiskError, UsageError
from ddim_core.evaluate import cells, evaluate, train_judge
from ddim_core.files import save_tensors
from ddim_core.tables import table
from ddim_core.weights import describe

SCHEDULE = {"T": 1000, "beta_1": 1e-4, "beta_T": 0.02}


@pytest.fixture(autouse=True)
def _few_digits(monkeypatch):
    def some(name, root=None, *, split="train", limit=None):
        digits = load_dataset("mnist-10k", limit=300)
        part = slice(200, 300) if split == "test" else slice(0, limit or 200)
        return dataclasses.replace(digits, images=digits.images[part], labels=digits.labels[part], split=split)

    monkeypatch.setattr(judging, "load_dataset", some)


@pytest.fixture
def weights(tmp_path):
    """Of a network for digits that draws noise, fast."""
    description = {"kind": "weights", "unet": TINY_28.unet.to_dict(), "schedule": SCHEDULE}
    save_tensors(tmp_path / "w.safetensors", randomised(UNet(TINY_28.unet)).state_dict(), description)
    return str(tmp_path / "w.safetensors")


def settings(found):
    return [tuple(row["settings"][k] for k in ("steps", "spacing", "eta", "order", "n")) for row in found["rows"]]


def figures(found):
    return [json.dumps(row["figures"]) for row in found["rows"]]


def test_cells_are_the_product_without_what_there_is_not():
    found = cells([10, 500], [0.0, 1.0, "sigma-hat"], [1, 2], ["uniform", "logsnr"], clip=True, n=30, n_slow=6)
    assert all(cell["clip"] is True for cell in found)
    assert [(c["spacing"], c["order"], c["eta"], c["steps"], c["n"]) for c in found] == [
        (spacing, order, eta, steps, n)
        for spacing in ("uniform", "logsnr")
        for order, eta in ((1, 0.0), (1, 1.0), (1, "sigma-hat"), (2, 0.0))
        for steps, n in ((10, 30), (500, 6))
    ]
    assert cells([4, 4, 5], n=9) == cells([4, 5], n=9), "none is asked for twice"
    assert [c["n"] for c in cells([499, 500], n=9)] == [9, 9]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": [2], "eta": [0.5, 1.0]}, "order 2 needs eta 0, and no other cell is asked for"),
        ({"order": [1, 3]}, "order must be 1 or 2, got 3"),
        ({"eta": [0.0, 2.0]}, r"eta must lie in \[0, 1\] or be 'sigma-hat', got 2.0"),
        ({"n": 4}, "judging needs at least 5 samples, got --n 4"),
        ({"n_slow": 0}, "judging needs at least 5 samples, got --n-slow 0"),
    ],
)
def test_cells_that_there_are_not(options, message):
    with pytest.raises(ValueError, match=message):
        cells(**options)


def test_the_figures_are_those_of_the_images():
    one = Drawing("mnist", 12, batch_size=5, steps=3, seed=1, eta=0.5, clip=True)
    found = evaluate(one, cells([3], [0.5], clip=True, n=12), seed=1, command="c")
    sure = metrics.confidence(metrics.load_classifier(), to_uint8(torch.cat(list(one.batches()))))
    (row,) = found["rows"]
    assert row["figures"]["share_sure"]["value"] == sure.share()
    digits = Counter(sure.label.tolist())
    assert row["figures"]["classes"] == [digits[d] for d in range(10)]
    asked = {"steps": 3, "spacing": "uniform", "eta": 0.5, "order": 1, "clip": True, "n": 12, "seed": 1, "amp": "fp32"}
    hashes = {
        f"{name}_sha256": describe(w)["sha256"] for name, w in (("weights", "mnist"), ("classifier", "classifier"))
    }
    assert row["settings"] == {**asked, **hashes}
    assert found["of"].items() >= {**hashes, "n": 12, "n_slow": None, "seed": 1}.items()
    assert row["made"]["command"] == "c"
    made = row["made"]["sampled"]
    assert [made[k] for k in ("calls_per_image", "calls", "batch_size", "device")] == [3, 36, 5, one.device.type]
    assert made["seconds"] > 0
    assert found["real"]["test_images"] == 100
    assert found["real"]["classifier_test_accuracy"] > 0.95


def test_it_goes_on_where_it_was_stopped(weights, tmp_path):
    out, asked = tmp_path / "new" / "f.json", cells([2, 3], [0.0, 1.0], n=8)
    whole = evaluate(Drawing(weights, 1), asked)
    seen = []

    def stop(line):
        seen.append(line)
        if line.startswith("row 2"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(Drawing(weights, 1), asked, out=out, say=stop)
    assert [line.split(":")[0] for line in seen] == ["row 1 of 4", "row 2 of 4"]
    kept = json.loads(out.read_text(encoding="utf-8"))
    assert settings(kept) == settings(whole)[:2]
    drawn = []
    one = Drawing(weights, 1)
    one.with_options = lambda n, **options: drawn.append(options) or Drawing.with_options(one, n, **options)
    found = evaluate(one, asked, out=out)
    assert {(d["steps"], d["eta"]) for d in drawn} == {(2, 1.0), (3, 1.0)}, "no other is drawn"
    assert found["rows"][:2] == kept["rows"]
    assert settings(found) == settings(whole)
    assert figures(found) == figures(whole), "stopped or not, the same bytes"
    assert json.loads(out.read_text(encoding="utf-8")) == json.loads(json.dumps(found))
    before = out.read_bytes()
    drawn.clear()
    evaluate(one, cells([3], n=8), out=out)
    assert not drawn, "a part of what is there"
    assert out.read_bytes() == before
    more = evaluate(one, cells([3], spacing=["quadratic"], n=8, n_slow=5), out=out)
    assert more["rows"][:4] == found["rows"]
    assert settings(more)[4:] == [(3, "quadratic", 0.0, 1, 8)]


@pytest.fixture
def soon_slow(monkeypatch):
    """Six steps count as many."""
    monkeypatch.setattr(judging, "SLOW", 6)


def test_a_slow_row_has_fewer_samples_and_says_so(soon_slow, weights, tmp_path):
    found = evaluate(Drawing(weights, 1), cells([2, 6], n=6, n_slow=5), out=tmp_path / "f.json")
    assert settings(found) == [(2, "uniform", 0.0, 1, 6), (6, "uniform", 0.0, 1, 5)]
    assert [sum(row["figures"]["classes"]) for row in found["rows"]] == [6, 5]
    assert [row["made"]["sampled"]["calls"] for row in found["rows"]] == [12, 30]
    assert (found["of"]["n"], found["of"]["n_slow"]) == (6, 5)


def test_a_file_of_something_else_is_left_as_it_is(soon_slow, weights, tmp_path):
    out = tmp_path / "f.json"
    evaluate(Drawing(weights, 1), cells([2, 6], n=6, n_slow=5), out=out)
    before = out.read_bytes()
    for drawing, asked, seed, other in (
        (weights, cells([2], n=7), 0, "--n"),
        (weights, cells([2, 7], n=7, n_slow=6), 1, "--n, --n-slow, --seed"),
        ("mnist", cells([2], n=6), 0, "weights"),
    ):
        message = f"{out} was made with another {other}: use the same, or choose another --out"
        with pytest.raises(UsageError, match=re.escape(message)):
            evaluate(Drawing(drawing, 1), asked, seed=seed, out=out)
        assert out.read_bytes() == before
    for content in (b"", b"[1]", b'{"rows": []}', b'{"of": {}, "real": {}, "rows": [1]}', b"\xff", before[:-9]):
        out.write_bytes(content)
        with pytest.raises(UsageError, match="was not written by `ddim evaluate`: choose another --out"):
            evaluate(Drawing(weights, 1), cells([2], n=6), out=out)
        assert out.read_bytes() == content
    with pytest.raises(UsageError, match="was not written by"):
        evaluate(Drawing(weights, 1), cells([2], n=6), out=tmp_path)


def test_other_data_are_other_rows(weights, tmp_path, monkeypatch):
    out = tmp_path / "f.json"
    evaluate(Drawing(weights, 1), cells([2], n=6), out=out)
    found = json.loads(out.read_text(encoding="utf-8"))
    found["of"]["test_sha256"] = "0" * 64
    out.write_text(json.dumps(found), encoding="utf-8")
    with pytest.raises(UsageError, match="was made with another set of test images"):
        evaluate(Drawing(weights, 1), cells([2], n=6), out=out)


def test_samples_are_kept_and_judged_again(weights, tmp_path, monkeypatch):
    folder, asked = tmp_path / "samples", cells([2, 3], n=8)
    first = evaluate(Drawing(weights, 1, batch_size=3), asked, save_samples=folder)
    assert sorted(os.listdir(folder)) == [
        "S2_uniform_eta0.0_order1_fp32_n8_seed0.npz",
        "S3_uniform_eta0.0_order1_fp32_n8_seed0.npz",
    ]
    with np.load(folder / "S3_uniform_eta0.0_order1_fp32_n8_seed0.npz") as file:
        images = file["images"]
    drawn = torch.cat(list(Drawing(weights, 8, batch_size=3, steps=3, seed=0).batches()))
    assert np.array_equal(images, to_uint8(drawn)[:, 0].numpy())

    def none(*args):
        raise AssertionError("nothing is drawn")

    monkeypatch.setattr(Drawing, "batches", none)
    for option in ("samples", "save_samples"):
        again = evaluate(Drawing(weights, 1), asked, **{option: folder})
        assert figures(again) == figures(first)
        assert [r["made"]["sampled"] for r in again["rows"]] == [r["made"]["sampled"] for r in first["rows"]]


def test_the_bar_counts_what_is_drawn(weights, tmp_path, monkeypatch):
    evaluate(Drawing(weights, 1), cells([2], n=5), save_samples=tmp_path / "samples")
    err = io.StringIO()
    err.isatty = lambda: True
    monkeypatch.setattr("sys.stderr", err)
    evaluate(Drawing(weights, 1, batch_size=3), cells([2, 4], n=5), save_samples=tmp_path / "samples")
    assert "row 2/2" in err.getvalue()
    assert " 8/8 " in err.getvalue().splitlines()[-1]


def test_samples_that_are_not_what_they_should_be(weights, tmp_path):
    folder, asked = tmp_path / "samples", cells([2], n=6)
    path = folder / "S2_uniform_eta0.0_order1_fp32_n6_seed0.npz"

    def fault():
        out = tmp_path / "f.json"
        with pytest.raises(DataError) as error:
            evaluate(Drawing(weights, 1), asked, samples=folder, out=out)
        assert json.loads(out.read_text(encoding="utf-8"))["rows"] == []
        assert "\n" not in str(error.value)
        return str(error.value)

    assert fault() == f"{path}: no such file: draw these samples with --save-samples {folder}"
    evaluate(Drawing("mnist", 1), asked, save_samples=folder)
    assert fault() == f"{path} holds samples made with another weights: choose another folder"
    raw = path.read_bytes()
    for content in (b"", b"text", raw[:200], raw[:300] + bytes([raw[300] ^ 255]) + raw[301:]):
        path.write_bytes(content)
        assert fault().startswith(f"{path} is damaged (")


def test_images_that_the_classifier_does_not_know(tmp_path):
    net = tiny_unet()
    description = {"kind": "weights", "unet": net.config.to_dict(), "schedule": SCHEDULE}
    save_tensors(tmp_path / "w.safetensors", net.state_dict(), description)
    with pytest.raises(UsageError, match=r"draw images of \(1, 8, 8\), not of \(1, 28, 28\)"):
        evaluate(Drawing(str(tmp_path / "w.safetensors"), 1), cells([1], n=5))


def test_more_samples_than_training_images(weights, tmp_path):
    with pytest.raises(UsageError, match="201 samples need as many training images beside them: --n 200 at most"):
        evaluate(Drawing(weights, 1), cells([1], n=201), out=tmp_path / "f.json")
    assert not (tmp_path / "f.json").exists()


def test_drawings_of_one_network(weights):
    first = Drawing(weights, 5, batch_size=2, steps=3, seed=4)
    other = first.with_options(4, steps=2, eta=1.0, seed=1)
    called = []
    drawn = torch.cat(list(other.batches(lambda: called.append(1))))
    assert torch.equal(drawn, torch.cat(list(Drawing(weights, 4, batch_size=2, steps=2, eta=1.0, seed=1).batches())))
    assert len(called) == other.calls == 4
    assert (first.n, first.options, first.calls) == (5, {"steps": 3, "seed": 4}, 9)


def test_a_grid_that_the_schedule_does_not_have(weights, tmp_path):
    for asked, message in (
        (cells([2, 1001]), "steps must lie in 1..1000"),
        (cells([2], spacing=["odd"]), "spacing must"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate(Drawing(weights, 1), asked, out=tmp_path / "f.json")
        assert not (tmp_path / "f.json").exists(), "found before the first row"


def test_a_table_and_a_row_in_words(weights):
    found = evaluate(Drawing(weights, 1), cells([3, 2], [1.0, "sigma-hat", 0.0], n=8))
    lines = table(found).splitlines()
    at = next(i for i, line in enumerate(lines) if line.split()[:2] == ["S", "eta"])
    body = [line.split() for line in lines[at + 1 : at + 7]]
    assert [(b[0], b[1]) for b in body] == [
        (steps, eta) for eta in ("0.0", "1.0", "sigma-hat") for steps in ("2", "3")
    ], "in order, whatever the order in the file"
    assert len({len(line) for line in lines[at : at + 7]}) == 1
    row = next(r for r in found["rows"] if (r["settings"]["steps"], r["settings"]["eta"]) == (2, 0.0))
    f = row["figures"]
    assert f"{f['frechet']['value']:.1f} [{f['frechet']['low']:.1f}, {f['frechet']['high']:.1f}]" in lines[at + 1]
    alone = table({**found, "rows": [row]})
    assert f"more than 95 % sure of {f['share_sure']['value']:.1%} [" in alone
    assert "of 8 samples at 2 steps" in alone
    assert f"of as many training images: {f['floor']['frechet']['value']:.2f} [" in alone
    assert f"samples of each digit 0..9: {' '.join(map(str, f['classes']))}" in alone
    assert "16 calls in " in alone


def test_a_judge_is_trained_and_judged(tmp_path):
    said = []
    train_judge(tmp_path, limit=128, epochs=1, seed=3, command="c", say=said.append)
    assert said[0].startswith("epoch 1: loss ")
    assert said[1].startswith(f"{tmp_path}/classifier.safetensors: ")
    assert said[1].endswith(" of 100 test images right")
    provenance = describe(str(tmp_path / "classifier.safetensors"))["provenance"]
    assert [provenance[k] for k in ("command", "images", "epochs", "seed")] == ["c", 128, 1, 3]

    before = (tmp_path / "classifier.safetensors").read_bytes()
    with pytest.raises(UsageError, match=r"classifier.safetensors exists: choose another --out, or remove it"):
        train_judge(tmp_path, limit=64, epochs=1, seed=4, command="c", say=said.append)
    assert (tmp_path / "classifier.safetensors").read_bytes() == before
    assert len(said) == 2


def test_where_a_judge_cannot_go_is_known_before_it_is_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(judging.metrics, "train_classifier", lambda *args, **options: 1 / 0)
    (tmp_path / "file").touch()
    with pytest.raises(DiskError, match=r"cannot write .*/file/run/classifier\.safetensors"):
        train_judge(tmp_path / "file" / "run", limit=8, epochs=1, command="c")
    with pytest.raises(ZeroDivisionError):
        train_judge(tmp_path / "new", limit=8, epochs=1, command="c")
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("epochs", [0, -1])
def test_no_epochs(tmp_path, epochs):
    with pytest.raises(UsageError, match=f"epochs must be an integer of at least 1, got {epochs}"):
        train_judge(tmp_path / "out", epochs=epochs, command="c")
    assert not (tmp_path / "out").exists()


def test_a_folder_of_images_is_no_digits(tmp_path):
    with pytest.raises(UsageError, match="the classifier is for digits"):
        train_judge(tmp_path / "out", str(tmp_path), command="c")


def test_a_card_is_known_by_its_name(monkeypatch):
    """Without one here; test_gpu.py asks a real one."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"card of {device}")
    here = judging._here(torch.device("cuda"))
    assert (here["machine"], here["device"]) == ("card of cuda", "cuda")
    assert here["cudnn_tf32"] in (True, False)


def test_what_is_asked_is_looked_at_before_any_work(weights, tmp_path):
    out = tmp_path / "f.json"
    with pytest.raises(UsageError, match="no cell is asked for"):
        evaluate(Drawing(weights, 1), [], out=out)
    with pytest.raises(UsageError, match="seed must not be negative, got -1"):
        evaluate(Drawing(weights, 1), cells([2], n=6), seed=-1, out=out)
    (tmp_path / "file").touch()
    with pytest.raises(DiskError, match="file"):
        evaluate(Drawing(weights, 1), cells([2], n=6), save_samples=tmp_path / "file")
    assert not out.exists()
    assert cells([2], eta=[0], n=6) == cells([2], eta=[0.0], n=6)
    assert isinstance(cells([2], eta=[0], n=6)[0]["eta"], float)


def test_rows_of_another_process_are_kept(weights, tmp_path):
    out, kept = str(tmp_path / "f.json"), []

    def meanwhile(line):
        """The other one ends while this one still draws its second row."""
        if line.startswith("row 1 of 2"):
            kept.extend(settings(evaluate(Drawing(weights, 1), cells([4], n=6), out=out)))

    evaluate(Drawing(weights, 1), cells([2, 3], n=6), out=out, say=meanwhile)
    assert {row[0] for row in settings(json.loads((tmp_path / "f.json").read_text(encoding="utf-8")))} == {2, 3, 4}
    assert len(kept) == 2


def test_a_row_that_another_process_has_made_is_not_made_again(weights, tmp_path):
    out = tmp_path / "f.json"

    def meanwhile(line):
        if line.startswith("row 1 of 3"):
            evaluate(Drawing(weights, 1), cells([4], n=6), out=out)

    found = evaluate(Drawing(weights, 1), cells([2, 3, 4], n=6), out=out, say=meanwhile)
    # its row is read with this one's second
    assert [row[0] for row in settings(found)] == [2, 3, 4]
    assert json.loads(out.read_text(encoding="utf-8"))["rows"] == found["rows"]


def test_a_file_that_was_only_begun_is_begun_anew(weights, tmp_path):
    out = tmp_path / "f.json"
    evaluate(Drawing(weights, 1), cells([2], n=6), seed=1, out=out)
    begun = json.loads(out.read_text(encoding="utf-8"))
    out.write_text(json.dumps({**begun, "rows": []}), encoding="utf-8")
    assert len(evaluate(Drawing(weights, 1), cells([2], n=7), seed=2, out=out)["rows"]) == 1


@pytest.mark.parametrize("name", ["brush-kanji", "kuzushiji"])
def test_kanji_are_no_digits(name, tmp_path):
    with pytest.raises(UsageError, match="the classifier is for digits: choose --dataset mnist or mnist-10k"):
        train_judge(tmp_path, name, command="c")
