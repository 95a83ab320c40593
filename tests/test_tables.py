"""Results in words; what a real judge's look like is tested in test_evaluate.py."""

from ddim_core.tables import in_short, table


def row(steps, eta, frechet, **more):
    share = {"value": 0.5, "low": 0.25, "high": 0.75}
    names = ("precision", "recall", "share_sure", "class_distance", "nearest_median", "share_near")
    figures = dict.fromkeys(names, share) | {"kid": {"value": 2.0, "deviation": 0.5}, "classes": [1] * 10}
    figures["frechet"] = {"value": frechet, "low": frechet - 1, "high": frechet + 1}
    settings = {"steps": steps, "spacing": "uniform", "eta": eta, "order": 1, "clip": False, "n": 10, "amp": "fp32"}
    made = {"sampled": {"seconds": 61.5, "calls": 10 * steps, "calls_per_image": steps}, "judged": {"seconds": 2.0}}
    made["sampled"] |= {"machine": "this one", "date": "2026-01-01 00:00"}
    return {"settings": settings | more, "figures": {**figures, "floor": figures}, "made": made}


REAL = {"classifier_test_accuracy": 0.9925, "test_images": 10_000, "share_sure": 0.98, "nearest_median": 5.25}


def test_rows_stand_in_order_one_under_the_other():
    rows = [
        row(20, "sigma-hat", 30.0),
        row(20, 1.0, 20.0),
        row(5, 1.0, 25.0),
        row(20, 0.0, 15.0),
        row(5, 0.0, 1.0, clip=True),
    ]
    lines = table({"real": REAL, "rows": rows}).splitlines()
    assert lines[0] == "classifier: 99.25% of 10000 test images right"
    assert lines[2] == "all rows: order 1, spacing uniform, amp fp32, n 10"
    head = next(i for i, line in enumerate(lines) if line.split()[:2] == ["S", "eta"])
    body = [line.split() for line in lines[head + 1 : head + 6]]
    assert [b[:2] for b in body] == [["20", "0.0"], ["5", "1.0"], ["20", "1.0"], ["20", "sigma-hat"], ["5", "0.0"]]
    assert body[-1][2] == "clip"
    assert "25.0 [24.0, 26.0]" in lines[head + 2]
    assert len({len(line) for line in lines[head : head + 6]}) == 1


def test_a_row_in_short():
    said = in_short(row(20, 0.0, 15.0, spacing="quadratic"))
    assert said == "S = 20, eta = 0.0, order 1, quadratic: Frechet 15.00, 61.5 s, judged in 2.0 s"
