"""Screenshots of the built book, to look at: python tests/book/screenshots.py [page ...] [--full] [--only phone-dark]

Pages are named as in _toc.yml, with or without `book/`; without names, all of them. The screenshots lie in
_build/screenshots/PAGE-{desktop,phone}-{light,dark}.png: whole pages, cut to pieces of 3,000 pixels unless --full is given.
"""

from __future__ import annotations

import argparse

from bookpages import DESKTOP, HTML, PHONE, chromium, pages, require_built_book, served, watched

OUT = HTML.parent / "screenshots"
PIECE = 3000  # pixels: taller screenshots are shrunk beyond reading by whatever shows them


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", nargs="*")
    parser.add_argument("--full", action="store_true", help="one screenshot per page, however tall")
    parser.add_argument(
        "--only", default="", help="only views whose name has this in it: desktop, phone, light, dark, phone-dark ..."
    )
    args = parser.parse_args()
    known = pages()
    wanted = [name if "/" in name else f"book/{name}" for name in args.page] or known
    for name in wanted:
        if name not in known:
            parser.error(f"{name} is not in _toc.yml; it has {', '.join(known)}")
    OUT.mkdir(parents=True, exist_ok=True)
    with served(require_built_book()) as base, chromium() as browser:
        for size, viewport in {"desktop": DESKTOP, "phone": PHONE}.items():
            for mode in ("light", "dark"):
                view = f"{size}-{mode}"
                if args.only not in view:
                    continue
                with watched(browser, base, viewport=viewport, color_scheme=mode) as tab:
                    for name in wanted:
                        page = tab.open(name)
                        height = page.evaluate("document.documentElement.scrollHeight")
                        stem = f"{name.removeprefix('book/').replace('/', '-')}-{view}"
                        for old in OUT.glob(f"{stem}*.png"):
                            old.unlink()
                        tops = [0] if args.full or height <= PIECE else range(0, height, PIECE)
                        page.set_viewport_size({"width": viewport["width"], "height": height})
                        for k, top in enumerate(tops):
                            path = OUT / (f"{stem}-{k + 1}.png" if len(tops) > 1 else f"{stem}.png")
                            bottom = height if len(tops) == 1 else min(top + PIECE, height)
                            page.screenshot(
                                path=path, clip={"x": 0, "y": top, "width": viewport["width"], "height": bottom - top}
                            )
                            print(path)
                        page.set_viewport_size(viewport)


if __name__ == "__main__":
    main()
