"""An environment with Colab's versions (colab.txt), its torch borrowed from the project's own.

.venv/bin/python tests/envs/colab.py make .venv-colab WHEEL     makes it anew, with the wheel installed by pip
.venv/bin/python tests/envs/colab.py renew FREEZE DATE          takes the versions from a copy of Colab's list
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import sysconfig
from importlib.metadata import Distribution, distributions
from pathlib import Path

LIST = Path(__file__).with_name("colab.txt")
BORROWED = re.compile(r"torch|torchvision|triton|cuda-.*|nvidia-.*")  # torch, and what nothing but torch needs
KERNEL = "colab"


def name_of(text: str) -> str:
    """A package's name as the index has it: `Huggingface_Hub` and `huggingface-hub` are one."""
    return re.sub(r"[-_.]+", "-", text).lower()


def borrow(folder: Path) -> None:
    """Links in `folder` to the torch of the environment that runs this, with the metadata by which pip knows it."""
    here = Path(sysconfig.get_path("purelib"))
    folder.mkdir()
    for found in distributions(path=[str(here)]):
        if BORROWED.fullmatch(name_of(found.name)):
            for top in {file.parts[0] for file in found.files or []} - {".."}:
                if not (folder / top).is_symlink():  # `nvidia` belongs to many
                    (folder / top).symlink_to(here / top)


def make(place: Path, wheel: Path) -> None:
    """Raises CalledProcessError where pip finds no set of versions, RuntimeError where they are not Colab's."""
    shutil.rmtree(place, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", place], check=True)
    python = place / "bin" / "python"
    borrow(place / "borrowed")
    own = next(place.glob("lib/python*/site-packages"))
    (own / "borrowed.pth").write_text(
        f"{place.resolve() / 'borrowed'}\n", encoding="utf-8"
    )  # .pth: after the environment's own packages
    pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    # ipykernel stands beside the wheel, since it is what makes this an environment for notebooks
    subprocess.run([*pip, "install", "--constraint", LIST, wheel, "ipykernel"], check=True)
    subprocess.run([*pip, "check"], check=True)
    installed = {name_of(found.name): found for found in distributions(path=[str(own)])}
    check(installed)
    subprocess.run([python, "-m", "ipykernel", "install", f"--prefix={place}", "--name", KERNEL], check=True)


def check(installed: dict[str, Distribution]) -> None:
    """Every package of the list is there in its version, and no second torch. Raises RuntimeError."""
    for name, version in listed(LIST.read_text(encoding="utf-8")).items():
        if name not in installed:
            raise RuntimeError(f"{LIST.name} has {name}, which nothing asks for any more: take it out")
        if installed[name].version != version:
            raise RuntimeError(f"{name} is {installed[name].version}, in Colab {version}")
    if twice := [name for name in installed if BORROWED.fullmatch(name)]:
        raise RuntimeError(f"installed although it could be borrowed: {', '.join(twice)}")
    free = sorted(
        f"{name} {found.version}"
        for name, found in installed.items()
        if name not in listed(LIST.read_text(encoding="utf-8"))
    )
    print(f"Colab's versions: {', '.join(f'{n} {v}' for n, v in listed(LIST.read_text(encoding='utf-8')).items())}.")
    print(f"The newest that go with them: {', '.join(free)}.")


def listed(freeze: str) -> dict[str, str]:
    """Name and version of each line `name==version`; what comes from elsewhere than the index has none."""
    return {name_of(m[1]): m[2] for m in re.finditer(r"^([\w.-]+)==(\S+)", freeze, re.M)}


def renew(freeze: Path, date: str, place: Path) -> None:
    """Writes colab.txt anew: what it names already, and what `place` holds besides, in the versions of `freeze`."""
    there, old = listed(freeze.read_text(encoding="utf-8")), LIST.read_text(encoding="utf-8")
    wanted = set(listed(old)) | {
        name_of(d.name) for own in place.glob("lib/python*/site-packages") for d in distributions(path=[str(own)])
    }
    wanted -= {"ddim-core", "pip", "setuptools"}  # the package, and what every environment begins with
    if lost := sorted(set(listed(old)) - set(there)):
        raise RuntimeError(f"{freeze} has no {', '.join(lost)}: is it Colab's list?")
    head = re.sub(r"(as of )[\d-]+", rf"\g<1>{date}", "".join(re.findall(r"^#.*\n", old, re.M)))
    LIST.write_text(
        head + "".join(f"{name}=={there[name]}\n" for name in sorted(wanted & set(there))), encoding="utf-8"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    making = commands.add_parser("make")
    making.add_argument("place", type=Path)
    making.add_argument("wheel", type=Path)
    making.set_defaults(run=make)
    renewing = commands.add_parser("renew")
    renewing.add_argument("freeze", type=Path)
    renewing.add_argument("date")
    renewing.add_argument("--place", type=Path, default=Path(".venv-colab"))
    renewing.set_defaults(run=renew)
    arguments = vars(parser.parse_args())
    run = arguments.pop("run")
    try:
        run(**arguments)
    except RuntimeError as error:
        sys.exit(f"colab.py: {error}")


if __name__ == "__main__":
    main()
