"""Results of `ddim evaluate` as text for a terminal: one row figure by figure, several as a table."""

__all__ = ["in_short", "table"]

_COLUMNS = ("S", "eta", "order", "spacing", "amp", "n", "Frechet", "floor", "KID", "precision", "recall", "sure")
_COLUMNS += ("classes", "nearest", "seconds")
_SAID_ONCE = ("order", "spacing", "amp", "n")  # where it is the same in all rows


def table(results: dict) -> str:
    """All rows of results as `evaluate` returns them, in order of their settings."""
    real, rows = results["real"], results["rows"]
    head = f"""classifier: {real["classifier_test_accuracy"]:.2%} of {real["test_images"]} test images right
more than 95 % sure of {real["share_sure"]:.1%} of real test images"""
    if len(rows) == 1:
        return f"{head}\n{_alone(rows[0], real)}"
    rows = sorted(rows, key=_place)
    columns = list(zip(_COLUMNS, *map(_cells, rows), strict=True))
    alike = {c[0]: c[1] for c in columns if c[0] in _SAID_ONCE and len(set(c[1:])) == 1}
    columns = [c for c in columns if c[0] not in alike]
    widths = [max(map(len, column)) for column in columns]
    lines = zip(*columns, strict=True)
    body = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    same = ["all rows: " + ", ".join(f"{name} {value}" for name, value in alike.items())] if alike else []
    return "\n".join([head, *same, *body, f"{_LEGEND}; of test images {real['nearest_median']:.2f}"])


_LEGEND = """In brackets 95 % over the draw of the samples (for Frechet, rather more). From
Frechet to recall the classifier's features count. Floor: Frechet distance of
as many training images. KID: +- standard deviation over its subsets. Sure:
share of which the classifier is more than 95 % sure. Classes: distance of the
ten digits' shares from those of the test images. Seconds: of sampling.
Nearest: median distance in pixels to the training set"""


def _place(row: dict) -> tuple:
    s = row["settings"]
    eta = (1, 0.0) if isinstance(s["eta"], str) else (0, s["eta"])
    return s["amp"], s["clip"], s["spacing"], s["order"], eta, s["steps"]


def _cells(row: dict) -> tuple[str, ...]:
    s, f = row["settings"], row["figures"]
    return (
        str(s["steps"]),
        f"{s['eta']}" + (" clip" if s["clip"] else ""),
        str(s["order"]),
        s["spacing"],
        s["amp"],
        str(s["n"]),
        _in_brackets(f["frechet"], ".1f"),
        f"{f['floor']['frechet']['value']:.1f}",
        f"{f['kid']['value']:.1f} +- {f['kid']['deviation']:.1f}",
        _in_brackets(f["precision"], ".3f"),
        _in_brackets(f["recall"], ".3f"),
        _in_brackets(f["share_sure"], ".3f"),
        f"{f['class_distance']['value']:.3f}",
        f"{f['nearest_median']['value']:.2f}",
        f"{row['made']['sampled']['seconds']:.1f}",
    )


def _in_brackets(figure: dict, form: str) -> str:
    if "low" not in figure:
        return format(figure["value"], form)
    return f"{figure['value']:{form}} [{figure['low']:{form}}, {figure['high']:{form}}]"


def _alone(row: dict, real: dict) -> str:
    s, f = row["settings"], row["figures"]
    floor, made = f["floor"], row["made"]["sampled"]
    lines = [
        f"more than 95 % sure of {_in_brackets(f['share_sure'], '.1%')} of {s['n']} samples at {s['steps']} steps",
        f"samples of each digit 0..9: {' '.join(map(str, f['classes']))}",
        f"their distance from the test images' shares: {_in_brackets(f['class_distance'], '.3f')}",
    ]
    for key, name, form in (
        ("frechet", "Frechet distance of features", ".2f"),
        ("precision", "precision of features", ".3f"),
        ("recall", "recall of features", ".3f"),
    ):
        beside = _in_brackets(floor[key], form)
        lines.append(f"{name}: {_in_brackets(f[key], form)}; of as many training images: {beside}")
    kid, beside = f["kid"], floor["kid"]["value"]
    lines += [
        f"KID of features: {kid['value']:.2f} +- {kid['deviation']:.2f}; of as many training images: {beside:.2f}",
        f"distance in pixels to the nearest training image: median {_in_brackets(f['nearest_median'], '.2f')}, of test "
        f"images {real['nearest_median']:.2f}",
        f"nearer than 1 % of the test images are: {_in_brackets(f['share_near'], '.1%')}",
        f"{made['calls']} calls in {made['seconds']:.1f} s ({made['machine']}, {s['amp']}), {made['calls_per_image']} per "
        "image; in brackets 95 % over the draw of the samples",
    ]
    return "\n".join(lines)


def in_short(row: dict) -> str:
    """One row in a line, while others are still to come."""
    s, f = row["settings"], row["figures"]
    what = f"S = {s['steps']}, eta = {s['eta']}, order {s['order']}, {s['spacing']}{', clip' if s['clip'] else ''}"
    seconds = [row["made"][part]["seconds"] for part in ("sampled", "judged")]
    return f"{what}: Frechet {f['frechet']['value']:.2f}, {seconds[0]:.1f} s, judged in {seconds[1]:.1f} s"
