"""Samples judged by the classifier, and how that is trained, on few real digits in place of MNIST."""

import dataclasses
from collections import Counter

import pytest
import torch
from helpers import tiny_unet

from ddim_core import evaluate as judging
from ddim_core import metrics
from ddim_core.data import load_dataset
from ddim_core.drawing import Drawing
from ddim_core.errors import UsageError
from ddim_core.evaluate import evaluate, train_judge
from ddim_core.files import save_tensors
from ddim_core.weights import describe


@pytest.fixture(autouse=True)
def _few_digits(monkeypatch):
    def some(name, root=None, *, split="train", limit=None):
        digits = load_dataset("mnist-10k", limit=300)
        part = slice(200, 300) if split == "test" else slice(0, limit or 200)
        return dataclasses.replace(digits, images=digits.images[part], labels=digits.labels[part], split=split)

    monkeypatch.setattr(judging, "load_dataset", some)


def test_the_figures_are_those_of_the_pictures():
    one = Drawing("mnist", 12, batch_size=5, steps=3, seed=1, eta=0.0, clip=False)
    found = evaluate(one)
    sure = metrics.confidence(metrics.load_classifier(), torch.cat(list(one.batches())))
    assert found["share_sure_of_samples"] == sure.share()
    digits = Counter(sure.label.tolist())
    assert found["samples_a_digit"] == [digits[d] for d in range(10)]
    assert [found[k] for k in ("samples", "steps", "seed", "eta", "clip", "amp")] == [12, 3, 1, 0.0, False, "fp32"]
    assert found["test_images"] == 100
    assert found["classifier_test_accuracy"] > 0.95
    assert found["weights_sha256"] == describe("mnist")["sha256"]
    assert found["classifier_sha256"] == describe("classifier")["sha256"]


def test_pictures_that_the_classifier_does_not_know(tmp_path):
    net = tiny_unet()
    schedule = {"T": 1000, "beta_1": 1e-4, "beta_T": 0.02}
    description = {"kind": "weights", "unet": net.config.to_dict(), "schedule": schedule}
    save_tensors(tmp_path / "w.safetensors", net.state_dict(), description)
    with pytest.raises(UsageError, match=r"draw pictures of \(1, 8, 8\), not of \(1, 28, 28\)"):
        evaluate(Drawing(str(tmp_path / "w.safetensors"), 1, steps=1))


def test_a_judge_is_trained_and_judged(tmp_path):
    said = []
    train_judge(tmp_path, limit=128, epochs=1, seed=3, command="c", say=said.append)
    assert said[0].startswith("epoch 1: loss ")
    assert said[1].startswith(f"{tmp_path}/classifier.safetensors: ")
    assert said[1].endswith(" of 100 test images")
    provenance = describe(str(tmp_path / "classifier.safetensors"))["provenance"]
    assert [provenance[k] for k in ("command", "images", "epochs", "seed")] == ["c", 128, 1, 3]


@pytest.mark.parametrize("epochs", [0, -1])
def test_no_epochs(tmp_path, epochs):
    with pytest.raises(UsageError, match=f"epochs must be an integer of at least 1, got {epochs}"):
        train_judge(tmp_path / "out", epochs=epochs, command="c")
    assert not (tmp_path / "out").exists()


def test_a_folder_of_pictures_is_no_digits(tmp_path):
    with pytest.raises(UsageError, match="the classifier is for digits"):
        train_judge(tmp_path / "out", str(tmp_path), command="c")
