"""Training runs that are killed, stopped, starved of disk, or shared: each in processes of its own.

    python scenarios.py NAME FOLDER     prints what happened, as JSON

The processes are forked from this one, which has imported everything once.
"""

import json
import os
import random
import resource
import signal
import socket
import sys
import time
import traceback
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path

import torch
from helpers import TINY, TINY_28, TINY_RUN, tiny_images

from ddim_core import run as runs
from ddim_core import train as training
from ddim_core.cli import main
from ddim_core.device import processes
from ddim_core.errors import DDIMError
from ddim_core.files import load_tensors
from ddim_core.recipes import RECIPES
from ddim_core.run import CHECKPOINT, load
from ddim_core.train import Trainer, train

torch.set_num_threads(1)
training._SAVE_APART = 0  # tiny epochs are saved each
runs._SHEET_STEPS = 1
RECIPES["tiny"] = TINY_28


def fork(action) -> int:
    """Run `action` in a process of its own, which ends with the code that it returns."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        code = action() or 0
    except BaseException:
        traceback.print_exc()
    os._exit(code)


def ended(pid: int) -> int:
    """The exit code, or minus the signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def wait_for(condition, pid: int) -> bool:
    """Until the condition holds (True) or the process has ended (False)."""
    while not condition():
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return False
        time.sleep(0.01)
    return True


def follow(trainer: Trainer, out: Path, **options) -> None:
    """Train, noting each loss to the last bit."""
    out.mkdir(parents=True, exist_ok=True)
    with open(out / "losses", "a", encoding="utf-8") as f:
        for step in train(trainer, out, **options):
            print(step.step, step.loss.item().hex(), file=f, flush=True)


def same_tensors(a: Path, b: Path) -> bool:
    (x, p), (y, q) = load_tensors(a / CHECKPOINT), load_tensors(b / CHECKPOINT)
    losses = [[line["loss"] for line in d["history"]] for d in (p, q)]
    return x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x) and losses[0] == losses[1]


def killed_in_training(folder: Path) -> dict:
    config, images = replace(TINY_RUN, epochs=8), tiny_images()

    def run(out: Path) -> None:
        trainer = Trainer(config, images, amp="fp32")
        if (out / CHECKPOINT).exists():
            load(trainer, out / CHECKPOINT)
        follow(trainer, out)

    straight, killed = folder / "straight", folder / "killed"
    assert ended(fork(lambda: run(straight))) == 0
    chance, kills, code = random.Random(1), 0, -signal.SIGKILL
    while code == -signal.SIGKILL:
        pid = fork(lambda: run(killed))
        # 5 steps per epoch: some runs end before their first checkpoint, some after several
        target = len(lines(killed / "losses")) + chance.randrange(2, 13)
        if wait_for(lambda n=target: len(lines(killed / "losses")) >= n, pid):
            os.kill(pid, signal.SIGKILL)
        code = ended(pid)
        kills += code == -signal.SIGKILL
    once = dict(line.split() for line in lines(straight / "losses"))
    again = [line.split() for line in lines(killed / "losses")]
    return {
        "code": code,
        "kills": kills,
        "steps": len(once),
        "steps_with_repeats": len(again),
        "every_loss_equal": {k for k, _ in again} == set(once) and all(once[k] == v for k, v in again),
        "same_tensors": same_tensors(straight, killed),
    }


def together(action) -> list[int]:
    """The codes of two processes that do the same, as torchrun starts them."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = str(s.getsockname()[1])

    def one(rank: int) -> int:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        return action()

    return [ended(pid) for pid in [fork(lambda r=rank: one(r)) for rank in range(2)]]


def two_processes(folder: Path) -> dict:
    config = replace(TINY_RUN, unet=replace(TINY, dropout=0.0), epochs=2)

    def run(out: Path, config=config, stop_at: int | None = None) -> int:
        with processes("cpu"):
            try:
                trainer = Trainer(config, tiny_images(), device="cpu", amp="fp32")
            except DDIMError as error:
                return error.exit_code
            # one of the processes is told to stop, the other is not
            me = trainer.rank == trainer.world - 1
            stop = lambda: bool(stop_at) and me and trainer.steps_done >= stop_at  # noqa: E731
            follow(trainer, out / str(trainer.rank) if trainer.rank else out, stop=stop)
        return trainer.steps_done

    def losses(out: Path) -> list[float]:
        return [float.fromhex(line.split()[1]) for line in lines(out / "losses")]

    alone, pair, stopped = folder / "alone", folder / "pair", folder / "stopped"
    result = {"alone": ended(fork(lambda: run(alone))), "pair": together(lambda: run(pair))}
    result["stopped"] = together(lambda: run(stopped, stop_at=2))
    result["unshareable"] = together(lambda: run(folder / "x", replace(config, batch_size=7)))
    result["losses"] = [losses(alone), losses(pair), losses(pair / "1")]
    a, b = (load_tensors(x / CHECKPOINT)[0] for x in (alone, pair))
    result["distance"] = max((a[k].double() - b[k].double()).abs().max().item() for k in a)
    result["files"] = sorted(p.name for p in (pair / "1").iterdir())
    result["steps_saved"] = load_tensors(stopped / CHECKPOINT)[1]["steps_done"]
    return result


def ddim(logs: Path, *argv: str) -> int:
    """The command in this process; its output is added to files."""
    with (
        open(f"{logs}.stdout", "a", encoding="utf-8") as o,
        open(f"{logs}.stderr", "a", encoding="utf-8") as e,
        redirect_stdout(o),
        redirect_stderr(e),
    ):
        try:
            return main(list(argv))
        except SystemExit as end:
            return end.code


def command(out: Path, *options: str, before=lambda: None) -> int:
    """`ddim train tiny` in a process of its own, with its output beside the run."""

    def run() -> int:
        before()
        argv = ["train", "tiny", "--dataset", "mnist-10k", "--limit", "64", "--out", str(out), "--quiet", *options]
        return ddim(out, *argv)

    return fork(run)


def two_commands(folder: Path) -> dict:
    """`ddim train tiny` by two processes, in which the first one meets a fault, or none."""
    (folder / "file").touch()
    shipped, here = ["--dataset", "mnist-10k"], ["--device", "cpu", "--epochs", "1", "--limit", "16", "--quiet"]
    found = {}
    holder = command(folder / "held", "--epochs", "500")
    wait_for(lambda: (folder / "held" / ".lock").exists(), holder)
    for name, out, options in [
        ("lock", "held", shipped),
        ("data", "data", ["--dataset", "mnist", "--data", str(folder / "none")]),
        ("disk", "file/run", shipped),
        ("none", "run", shipped),
        ("gpus", "gpus", [*shipped, "--device", "cuda:0"]),
    ]:
        argv = ["train", "tiny", "--out", str(folder / out), *here, *options]
        codes = together(lambda n=name, a=argv: ddim(folder / f"{n}{os.environ['RANK']}", *a))
        said = [(folder / f"{name}{rank}.stderr").read_text(encoding="utf-8") for rank in range(2)]
        found[name] = codes, said
        if name == "lock":
            os.kill(holder, signal.SIGKILL)
            ended(holder)
    return found


def aged(out: Path) -> None:
    """What a killed process left half-written, as it is two minutes later."""
    for half in out.glob(".*.tmp"):
        os.utime(half, (time.time() - 120,) * 2)


def stopped_commands(folder: Path) -> dict:
    out, result = folder / "run", []
    steps = 0
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL):
        pid = command(out, "--epochs", "500", *(["--resume"] if steps else []))
        start = len(lines(out / "metrics.jsonl"))
        alive = wait_for(lambda n=start: len(lines(out / "metrics.jsonl")) >= n + 1, pid)
        time.sleep(0.05)
        os.kill(pid, number)
        code = ended(pid)
        before, steps = steps, load_tensors(out / CHECKPOINT)[1]["steps_done"]
        result.append({"alive": alive, "code": code, "went_on": steps - before})
    aged(out)
    epochs = len(lines(out / "metrics.jsonl")) + 1
    last = ended(command(out, "--resume", "--epochs", str(epochs)))
    again = ended(command(out, "--resume", "--epochs", str(epochs)))
    metrics = [json.loads(line) for line in lines(out / "metrics.jsonl")]
    return {
        "stops": result,
        "last": last,
        "again": again,
        "epochs": [epochs, [m["epoch"] for m in metrics]],
        "steps": load_tensors(out / CHECKPOINT)[1]["steps_done"],
        "starts": [json.loads(line)["from_step"] for line in lines(out / "starts.jsonl")],
        "images": sorted(p.name for p in out.glob("samples_epoch_*.png"))[-1],
        "left": sorted(p.name for p in out.glob(".*")),
        "stdout": (folder / "run.stdout").read_text(encoding="utf-8"),
        "stderr": (folder / "run.stderr").read_text(encoding="utf-8"),
    }


def two_runs(folder: Path) -> dict:
    """A second run in the folder of one that is under way, new or resumed; and after that one was killed."""
    out, later = folder / "run", folder / "later"
    first = command(out, "--epochs", "500")
    alive = wait_for(lambda: (out / ".lock").exists(), first)
    codes = [ended(command(out, "--epochs", "500", "--seed", "7"))]
    alive &= wait_for((out / CHECKPOINT).exists, first)
    codes.append(ended(command(out, "--resume")))
    alive &= os.waitid(os.P_PID, first, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    os.kill(first, signal.SIGKILL)
    ended(first)
    left = sorted(p.name for p in out.glob(".*") if not p.name.endswith(".tmp"))
    aged(out)
    epochs = str(len(lines(out / "metrics.jsonl")) + 1)
    codes.append(ended(command(out, "--resume", "--epochs", epochs)))
    # another run that came and went between this one's first look and its lock
    late = command(later, "--epochs", "1", before=lambda: setattr(training.Trainer, "__init__", _slowly(later)))
    codes.append(ended(late))
    return {
        "alive": alive,
        "codes": codes,
        "left": left,
        "after": sorted(p.name for p in out.glob(".*")),
        "starts": [json.loads(line)["from_step"] for line in lines(out / "starts.jsonl")],
        "seed": load_tensors(out / CHECKPOINT)[1]["config"]["seed"],
        "stderr": lines(folder / "run.stderr"),
        "later": lines(folder / "later.stderr"),
    }


def _slowly(out: Path):
    make = Trainer.__init__

    def init(self, *args, **options):
        make(self, *args, **options)
        (out / CHECKPOINT).write_bytes(b"of another run")

    return init


def full_disk(folder: Path) -> dict:
    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))

    new, old = folder / "new", folder / "old"
    first = ended(command(new, "--epochs", "2", before=limit))
    assert ended(command(old, "--epochs", "1")) == 0
    content = (old / CHECKPOINT).read_bytes()
    second = ended(command(old, "--epochs", "2", "--resume", before=limit))
    return {
        "codes": [first, second],
        "new": sorted(p.name for p in new.iterdir()),
        "old_intact": (old / CHECKPOINT).read_bytes() == content,
        "left": sorted(p.name for p in old.glob(".*")),
        "stderr": [(folder / f"{name}.stderr").read_text(encoding="utf-8") for name in ("new", "old")],
    }


if __name__ == "__main__":
    scenario, folder = sys.argv[1:]
    print(json.dumps(globals()[scenario](Path(folder))))
