"""How fast the U-Net trains and samples: the note's implementation, diffusers' and ours, in one process.

    python benchmarks/speed.py --threads 1 --batch 64 --budget 120 --out speed.json

All networks have the shape of the recipe "mnist" and start from the same weights. Contestants take turns in rounds, and
a ratio to the note's network is the median over rounds of the ratio within a round, so a machine that others load
changes rates more than ratios (with one thread of a CPU, seconds are the process's own). "note" and "diffusers" have
the original settings (dropout 0.1, 32 groups); "ours" has the recipe's (no dropout, 8 groups), and where it says
"original settings" the same as they.

A training step of the note is its own loop: Adam, no clipping, the loss read back at each step; images come from
memory, so its data loader costs nothing. diffusers' has images on the device and clipping; ours is
`ddim_core.train.Trainer`, with averaged weights. Sampling is one call of the network in inference mode. Eager
contestants come first; compiled ones then take turns with the note's, as far as the time goes.
"""

import argparse
import json
import os
import platform
import signal
import sys
import time
import traceback
from dataclasses import asdict
from pathlib import Path
from statistics import median

STARTED = time.perf_counter()  # the import of torch is part of the budget

import torch  # noqa: E402
from contestants import Contestant, Stage, contestants  # noqa: E402
from limits import TooLong, end_children, limit  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from ddim_core import UNet  # noqa: E402
from ddim_core.device import choose_amp  # noqa: E402

EAGER_SHARE = 0.6  # of the time, where compiled contestants follow
LEAST = 2.0  # seconds: with less left, nothing is begun


class Bench:
    def __init__(self, args: argparse.Namespace, started: float):
        self.args, self.started = args, started
        self.device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.cuda = self.device.type == "cuda"
        # one thread of a CPU: its own seconds, which others' load does not stretch; on an idle machine they are the same
        alone = self.device.type == "cpu" and torch.get_num_threads() == 1
        self.clock = time.process_time if alone else time.perf_counter
        self.stage = Stage(self.device, args.tiny)
        only = args.only or [""]
        chosen = [c for c in contestants(self.cuda) if c.kind == "note" or any(o in c.name for o in only)]
        self.eager = [c for c in chosen if not c.compiled]
        self.late = [c for c in chosen if c.compiled and not args.tiny and not args.eager]
        self.running: dict[tuple, tuple] = {}  # (mode, batch, name): (run n steps, n for a turn, seconds of a turn)
        self.rows: dict[tuple, dict] = {}
        self.outputs: dict[tuple, torch.Tensor] = {}
        self.report = {
            "ended": "running",
            "machine": machine(self.device),
            "settings": {
                "clock": self.clock.__name__,
                **{k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()},
                "recipe": self.stage.recipe.to_dict(),
                "original": self.stage.original.to_dict(),
                "contestants": [asdict(c) for c in chosen],
            },
            "flops_per_image": flops(self.stage),
            "peak_flops": {},
        }

    def left(self) -> float:
        return self.args.budget - (time.perf_counter() - self.started)

    def timed(self, call, clock=time.perf_counter) -> float:
        if self.cuda:
            torch.cuda.synchronize()
        start = clock()
        call()
        if self.cuda:
            torch.cuda.synchronize()
        return clock() - start

    def peaks(self) -> None:
        """The best of several products of large matrices: what this machine's arithmetic can do, in FLOP/s."""
        n = 8192 if self.cuda else 1024
        for name in ("fp32", "tf32", "bf16") if self.cuda else ("fp32", "bf16"):
            if name == "tf32":  # how cuDNN's convolutions compute in fp32 unless told otherwise
                torch.set_float32_matmul_precision("high")
            try:
                with limit(min(10, self.left())):
                    a = torch.randn(2, n, n, device=self.device).to(torch.bfloat16 if name == "bf16" else torch.float32)
                    start, seconds = time.perf_counter(), float("inf")
                    for i in range(30):
                        if i > 2 and time.perf_counter() - start > 3:  # a machine that is busy or slow
                            break
                        seconds = min(seconds, self.timed(lambda: a[0] @ a[1], self.clock))  # noqa: B023
                self.report["peak_flops"][name] = 2 * n**3 / seconds
            except (Exception, TooLong) as error:
                print(f"peak {name}: {error}")
            torch.set_float32_matmul_precision("highest")
        print("peak TFLOP/s: " + ", ".join(f"{k} {v / 1e12:.3g}" for k, v in self.report["peak_flops"].items()))

    def prepare(self, c: Contestant, mode: str, batch: int, seconds: float) -> bool:
        """Build, compile, warm up; the time of a step says how many make a turn. False if that failed."""
        key = (mode, batch, c.name)
        row = self.rows[key] = {"mode": mode, "batch": batch, "contestant": c.name, "amp": c.amp, "error": None}
        row |= {"rounds": [], "note_rounds": []}
        try:
            if seconds < LEAST:
                raise TooLong("no time left")
            with limit(seconds):
                if self.cuda:
                    torch.cuda.reset_peak_memory_stats()
                    held = torch.cuda.memory_allocated()
                start = time.perf_counter()
                run = getattr(self.stage, mode)(c, batch)
                row["build_seconds"] = time.perf_counter() - start
                step = row["first_step_seconds"] = self.timed(lambda: run(1))  # compiles, where that is asked for
                if self.cuda or c.compiled:
                    self.timed(lambda: run(2))
                    step = self.timed(lambda: run(1))
                if self.cuda:
                    row["memory_mib"] = (torch.cuda.max_memory_allocated() - held) / 2**20
                if (
                    mode == "sample"
                ):  # the same function? to the note's output, or to the first of the recipe's settings
                    out = run(1).float().cpu().clone()
                    other = self.outputs.setdefault((batch, c.original), out)
                    row["difference"] = ((out - other).norm() / other.norm()).item()
            n = max(1, round(self.args.turn / step))
            self.running[key] = (run, n, n * step)
        except (Exception, TooLong) as error:
            self.failed(row, error)
        self.write()
        return key in self.running

    def failed(self, row: dict, error: BaseException) -> None:
        text = (str(error).strip() or "no message").splitlines()[0]
        row["error"] = text if isinstance(error, TooLong) else f"{type(error).__name__}: {text}"
        self.running.pop((row["mode"], row["batch"], row["contestant"]), None)
        print(f"{row['mode']} {row['batch']} {row['contestant']}: {row['error']}", flush=True)

    def rounds(self, mode: str, batch: int, names: list[Contestant], until: float) -> None:
        """Take turns while more than `until` seconds of the budget are left, once at least."""
        keys, longest = [(mode, batch, c.name) for c in names], 0.0
        for i in range(self.args.rounds):
            if i and self.left() - longest < until:
                break
            start, note = self.left(), None
            for key in keys:
                run, n, seconds = self.running.get(key, (None, 0, 0.0))
                if run is None or self.left() < seconds + 0.5:
                    continue
                try:
                    with limit(self.left()):
                        rate = n * batch / self.timed(lambda: run(n), self.clock)  # noqa: B023
                except (Exception, TooLong) as error:
                    self.failed(self.rows[key], error)
                    continue
                note = rate if key[-1] == "note" else note
                self.rows[key]["rounds"].append(rate)
                self.rows[key]["note_rounds"].append(note)
            longest = max(longest, start - self.left())
            self.write()
        for key in keys:
            if key in self.running and not self.rows[key]["rounds"]:
                self.failed(self.rows[key], TooLong("no time left for a turn"))
        print(self.table([self.rows[k] for k in keys]), flush=True)

    def run(self) -> None:
        self.peaks()
        cells = [(mode, batch) for batch in self.args.batch for mode in ("sample", "train")]
        later = self.left() * (1 - EAGER_SHARE) if self.late else LEAST
        for i, (mode, batch) in enumerate(cells):
            until, turns = later + (self.left() - later) * (1 - 1 / (len(cells) - i)), 0.0
            for c in self.eager:  # what is prepared keeps the time for a turn
                if self.prepare(c, mode, batch, min(self.args.budget / 4, self.left() - turns - 1)):
                    turns += self.running[mode, batch, c.name][-1]
            self.rounds(mode, batch, self.eager, until)
        for c in self.late:
            for mode, batch in cells:
                if self.prepare(c, mode, batch, self.left() - 2):
                    self.rounds(mode, batch, [self.eager[0], c], 1.0)

    def summary(self, row: dict) -> dict:
        if not row["rounds"]:
            return row
        rate, peak = median(row["rounds"]), self.report["peak_flops"]
        best = peak.get("tf32" if row["amp"] == "fp32" and "tf32" in peak else row["amp"])
        work = self.report["flops_per_image"] * (3 if row["mode"] == "train" else 1)
        ratios = [a / b for a, b in zip(row["rounds"], row["note_rounds"], strict=True) if b]
        return row | {
            "images_per_second": rate,
            "lowest": min(row["rounds"]),
            "highest": max(row["rounds"]),
            "ratio_to_note": median(ratios) if ratios else None,
            "share_of_peak": rate * work / best if best else None,
        }

    def table(self, rows: list[dict]) -> str:
        lines = [f"{'':42} images/s  (lowest - highest) rounds ratio of peak    MiB first step"]
        for row in map(self.summary, rows):
            line = f"{row['mode']:6} {row['batch']:>4}  {row['contestant']:29}"
            if row["rounds"]:
                ratio, share, mib = (row.get(k) for k in ("ratio_to_note", "share_of_peak", "memory_mib"))
                spread = f"({row['lowest']:.1f} - {row['highest']:.1f})"
                line += f"{row['images_per_second']:>9.1f} {spread:>19}{len(row['rounds']):>7}"
                line += f"{f'{ratio:.2f}' if ratio else '-':>6}{f'{share:.1%}' if share else '-':>8}"
                line += f"{f'{mib:.0f}' if mib else '-':>7}{row['first_step_seconds']:>9.1f} s"
            lines.append(f"{line}  {row['error'] or ''}".rstrip())
        return "\n".join(lines)

    def write(self) -> None:
        if self.args.out:
            self.report |= {"seconds": self.args.budget - self.left(), "rows": [*map(self.summary, self.rows.values())]}
            part = self.args.out.with_suffix(".part")
            part.write_text(json.dumps(self.report, indent=1) + "\n", encoding="utf-8")
            part.replace(self.args.out)

    def finish(self, ended: str) -> None:
        self.report["ended"] = ended
        self.write()
        print(
            f"\n{json.dumps(self.report['machine'])}\n{self.table([*self.rows.values()])}\nended: {ended}", flush=True
        )


def flops(stage: Stage) -> int:
    """Of one call for one image, on the CPU and with gradients: there attention is two products, which are counted."""
    xt = torch.zeros(1, 1, stage.recipe.resolution, stage.recipe.resolution)
    with FlopCounterMode(display=False) as counter:
        UNet(stage.recipe)(xt, torch.ones(1, dtype=torch.int64))
    return counter.get_total_flops()


def machine(device: torch.device) -> dict:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {
        "device": str(device),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "cudnn_tf32": torch.backends.cudnn.allow_tf32,
        "fast_bf16": choose_amp(device) == "bf16",
        "date": time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
    }


def main(argv: list[str] | None = None, started: float | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[64], help="batch sizes, the most important first")
    parser.add_argument("--budget", type=float, default=120, help="seconds for everything")
    parser.add_argument("--threads", type=int, help="of a CPU")
    parser.add_argument("--device", help="cuda or cpu; the best there is, if left out")
    parser.add_argument("--rounds", type=int, default=5, help="at most")
    parser.add_argument("--turn", type=float, default=0.2, help="seconds of a contestant's turn, about")
    parser.add_argument("--only", nargs="+", help="contestants with one of these in their names, and the note")
    parser.add_argument("--eager", action="store_true", help="nothing compiled: compiling takes a minute a network")
    parser.add_argument("--tiny", action="store_true", help="a tiny network, nothing compiled: to test this program")
    parser.add_argument("--out", type=Path, help="JSON file, written anew after every round")
    args = parser.parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    bench, ended = Bench(args, time.perf_counter() if started is None else started), "complete"

    def terminated(*_):
        bench.finish("SIGTERM")
        leave(143)

    before = signal.signal(signal.SIGTERM, terminated)
    try:
        bench.run()
    except BaseException as error:  # an interruption too: what was measured is kept
        traceback.print_exc()
        ended = repr(error)
    finally:
        signal.signal(signal.SIGTERM, before)
    bench.finish(ended)
    return int(ended != "complete")


def leave(code: int) -> None:
    """At once: compilers that were stopped would keep a normal exit waiting for a minute and more."""
    sys.stdout.flush()
    sys.stderr.flush()
    end_children(os.getpid())
    os._exit(code)


if __name__ == "__main__":
    leave(main(started=STARTED))
