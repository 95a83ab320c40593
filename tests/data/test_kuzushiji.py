"""The archive of Kuzushiji-Kanji: small ones of the same layout, hostile ones, and a host that breaks off."""

import gzip
import io
import os
import tarfile
import threading
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ddim_core import cli
from ddim_core.data import kuzushiji
from ddim_core.data.kanji import FOLDER, read_folder
from ddim_core.data.kuzushiji import check_count, fetch, unpack
from ddim_core.errors import DataError, DiskError, UnavailableError
from ddim_core.files import sha256_file

NAMES = [f"{FOLDER}/U+4C61/{16 * 'a'}.png", f"{FOLDER}/U+4E00/{16 * '0'}.png", f"{FOLDER}/U+20B9F/0123456789abcdef.png"]
GOOD = f"{FOLDER}/U+4E8C/{16 * 'b'}.png"


def png(seed, size=(64, 64), mode="L"):
    array = np.random.default_rng(seed).integers(0, 256, size[::-1], np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(array).convert(mode).save(buffer, "PNG")
    return buffer.getvalue()


def member(name, kind=tarfile.REGTYPE, content=b"", **fields):
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, content


def images():
    folders = sorted({os.path.dirname(name) for name in NAMES})
    return [
        *(member(name, tarfile.DIRTYPE) for name in (FOLDER, *folders)),
        *(member(name, content=png(i)) for i, name in enumerate(NAMES)),
    ]


def archive(path, members):
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return path


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}


@pytest.fixture
def small(tmp_path):
    (tmp_path / "in").mkdir()
    return archive(tmp_path / "in" / "kkanji.tar", images())


# --- unpacking ---------------------------------------------------------------------------------------------------


def test_unpacked_it_is_what_was_packed(small, tmp_path):
    for where in (tmp_path / "a", str(tmp_path / "b")):
        unpack(small, where, count=3)
        assert tree(where) == {name: png(i) for i, name in enumerate(NAMES)}
        assert os.listdir(where) == [FOLDER]
    images, labels, characters = read_folder(tmp_path / "a")
    assert labels.tolist() == [0, 1, 2]
    assert characters == ["\u4c61", "一", "\U00020b9f"]
    assert torch.equal(images[0, 0], torch.from_numpy(np.array(Image.open(io.BytesIO(png(0))))))


def test_folders_need_not_be_listed(tmp_path):
    unpack(archive(tmp_path / "a.tar", images()[-3:]), tmp_path / "out", count=3)
    assert set(tree(tmp_path / "out")) == set(NAMES)


def test_hidden_files_stay_packed(tmp_path):
    names = [
        f"{FOLDER}/.DS_Store",
        f"{FOLDER}/Thumbs.db",
        *(f"{os.path.dirname(GOOD)}/{n}" for n in ("._a.png", "desktop.ini")),
    ]
    hidden = [member(name, content=b"x") for name in names]
    unpack(archive(tmp_path / "a.tar", [*hidden, *images()]), tmp_path / "out", count=3)
    assert set(tree(tmp_path / "out")) == set(NAMES)


def test_modes_and_owners_are_not_taken_over(tmp_path):
    info, content = member(NAMES[0], content=png(0), mode=0o6777, uid=12345)
    unpack(archive(tmp_path / "a.tar", [(info, content)]), tmp_path / "out", count=1)
    made = (tmp_path / "out" / NAMES[0]).stat()
    assert made.st_mode & 0o7111 == 0
    assert made.st_uid == os.getuid()


LAYOUT = r"is not of the form kkanji2/U\+XXXX/<16 hex>\.png"
LINK = "is a link or a device"
HOSTILE = [
    (member("/tmp/evil.png", content=png(0)), LAYOUT),
    (member(f"/{GOOD}", content=png(0)), LAYOUT),
    (member(f"../{GOOD}", content=png(0)), LAYOUT),
    (member(f"{FOLDER}/../../{16 * 'b'}.png", content=png(0)), LAYOUT),
    (member(f"{FOLDER}/U+4E8C/../{16 * 'b'}.png", content=png(0)), LAYOUT),
    (member(f"{FOLDER}/..", tarfile.DIRTYPE), LAYOUT),
    (member("..", tarfile.DIRTYPE), LAYOUT),
    (member("/", tarfile.DIRTYPE), LAYOUT),
    (member(f"C:\\{FOLDER}\\x.png", content=png(0)), LAYOUT),
    (member(f"{FOLDER}\\..\\x.png", content=png(0)), LAYOUT),
    (member(f"{GOOD}\n", content=png(0)), LAYOUT),
    (member("kkanji3/U+4E8C/" + 16 * "b" + ".png", content=png(0)), LAYOUT),
    (member(f"{FOLDER}/{16 * 'b'}.png", content=png(0)), LAYOUT),
    (member(f"{FOLDER}/U+4E8C/sub/{16 * 'b'}.png", content=png(0)), LAYOUT),
    (member(f"{FOLDER}/U+4E8C/sub", tarfile.DIRTYPE), LAYOUT),
    (member(f"{FOLDER}/U+4E8C/readme.txt", content=b"x"), LAYOUT),
    (member(f"{FOLDER}/U+4E8C/{16 * 'B'}.png", content=png(0)), LAYOUT),
    (member(f"{FOLDER}/U+4e8c/{16 * 'b'}.png", content=png(0)), LAYOUT),
    (member(f"{FOLDER}/U+110000/{16 * 'b'}.png", content=png(0)), LAYOUT),
    (member(f"{FOLDER}/U+4E8C/{16 * 'b'}.PNG", content=png(0)), LAYOUT),
    (member("../.DS_Store", content=b"x"), LAYOUT),
    (member(f"{FOLDER}/.hidden/x", content=b"x"), LAYOUT),
    (member(f"{FOLDER}/.hidden", tarfile.SYMTYPE, linkname="/tmp"), LINK),
    (member(GOOD, tarfile.SYMTYPE, linkname="/etc/passwd"), LINK),
    (member(f"{FOLDER}/U+4E8C", tarfile.SYMTYPE, linkname=".."), LINK),
    (member(FOLDER, tarfile.SYMTYPE, linkname="/tmp"), LINK),
    (member(GOOD, tarfile.LNKTYPE, linkname=NAMES[0]), LINK),
    (member(GOOD, tarfile.LNKTYPE, linkname="/etc/passwd"), LINK),
    (member(GOOD, tarfile.FIFOTYPE), LINK),
    (member(GOOD, tarfile.CHRTYPE, devmajor=1, devminor=5), LINK),
    (member(GOOD, tarfile.BLKTYPE, devmajor=8), LINK),
    (member(GOOD, content=bytes(100_000)), "is too large for an image"),
    (member(NAMES[0], content=png(9)), "appears twice"),
]


@pytest.mark.parametrize("first", [True, False], ids=["first", "last"])
@pytest.mark.parametrize(("hostile", "problem"), HOSTILE, ids=[f"{m[0].type!r} {m[0].name!r}" for m, _ in HOSTILE])
def test_a_hostile_member(tmp_path, hostile, problem, first):
    """Refused before anything is written, wherever it stands, in one line that names it."""
    name = hostile[0].name if hostile[0].name == "/" else hostile[0].name.rstrip("/")
    path = archive(tmp_path / "a.tar", [hostile, *images()] if first else [*images(), hostile])
    before = tree(tmp_path)
    with pytest.raises(DataError, match=problem + "; nothing was unpacked") as e:
        unpack(path, tmp_path / "out", count=4)
    assert str(e.value).startswith(f"{path}: {name!r} " if name != "/" else f"{path}: ")
    assert "\n" not in str(e.value)
    assert tree(tmp_path) == before
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (png(0, (63, 64)), "is 63x64 of mode L, not 64x64 grey"),
        (png(0, mode="RGB"), "is 64x64 of mode RGB"),
        (png(0)[:300], "is not a readable PNG"),
        (b"", "is not a PNG"),
        (b"#!/bin/sh\n", "is not a PNG"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_an_image_that_is_none(tmp_path, content, problem):
    path = archive(tmp_path / "a.tar", [*images(), member(GOOD, content=content)])
    with pytest.raises(DataError, match=problem) as e:
        unpack(path, tmp_path / "out", count=4)
    assert str(e.value).startswith(f"{path}: {GOOD} is ")
    assert not (tmp_path / "out" / FOLDER).exists()
    assert tree(tmp_path / "out") == {}, "nothing half-written"


def test_another_count(small, tmp_path):
    for count in (2, 4):
        with pytest.raises(DataError, match=f"holds 3 images of 3 characters instead of {count}: .* --count 3$"):
            unpack(small, tmp_path / "out", count=count)
    with pytest.raises(DataError, match="instead of 140424 of 3832: get it again, or"):
        unpack(small, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_real_count_has_the_real_characters():
    check_count("x", 140_424, 3_832)
    with pytest.raises(DataError, match="140424 images of 3831 characters instead of 140424 of 3832"):
        check_count("x", 140_424, 3_831)
    check_count("x", 5, 1, 5)


def test_files_that_are_no_archives(small, tmp_path):
    raw = small.read_bytes()
    for content, cause in [
        (b"", "is not a complete tar archive"),
        (b"<html>not found</html>" * 99, "is not a complete tar archive"),
        (gzip.compress(raw), "is not a complete tar archive"),
        (raw[:100], "is not a complete tar archive"),
        (raw[: raw.index(png(2)) + 100], "is not a complete tar archive|holds 2 images"),
    ]:
        path = tmp_path / "bad.tar"
        path.write_bytes(content)
        with pytest.raises(DataError, match=cause) as e:
            unpack(path, tmp_path / "out", count=3)
        assert str(e.value).startswith(str(path))
        assert tree(tmp_path / "out") == {}
    for path in (tmp_path / "nothing.tar", tmp_path):
        with pytest.raises(DataError, match=r"cannot be read \(.+\): name another file"):
            unpack(path, tmp_path / "out", count=3)


def test_damage_anywhere_is_seen_or_harmless(small, tmp_path):
    """A byte of a header or an image turned round: an error of ours, or an archive that is still as it should be."""
    raw = small.read_bytes()
    refused = 0
    for i in range(0, 5 * 512, 41):
        path = tmp_path / "bad.tar"
        path.write_bytes(raw[:i] + bytes([raw[i] ^ 129]) + raw[i + 1 :])
        try:
            unpack(path, tmp_path / f"out{i}", count=3)
        except DataError:
            refused += 1
            assert tree(tmp_path / f"out{i}") == {}
        else:
            assert set(tree(tmp_path / f"out{i}")) == set(NAMES)
    assert refused > 40
    assert not list(tmp_path.rglob("*.tmp"))


def test_where_it_cannot_go(small, tmp_path):
    with pytest.raises(DiskError, match="cannot write"):
        unpack(small, small, count=3)
    (tmp_path / "out" / FOLDER).mkdir(parents=True)
    with pytest.raises(DataError, match=f"{FOLDER} exists already"):
        unpack(small, tmp_path / "out", count=3)


# --- fetching ----------------------------------------------------------------------------------------------------


class Host(ThreadingHTTPServer):
    """A host with one file. `faults` are taken one an answer: a status to answer with, or bytes after which to hang up."""

    daemon_threads = True

    def __init__(self, content):
        super().__init__(("127.0.0.1", 0), Answer)
        self.content, self.changed, self.faults, self.asked = content, 1_000_000_000, [], []
        self.ranges = self.sizes = True
        self.url = f"http://127.0.0.1:{self.server_address[1]}/kkanji.tar"


class Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        host = self.server
        start = int((self.headers["Range"] or "bytes=0-")[6:-1])
        host.asked.append(start)
        date = formatdate(host.changed, usegmt=True)
        if not host.ranges or self.headers["If-Range"] not in (None, date):
            start = 0
        fault = host.faults.pop(0) if host.faults else None
        status = fault[0] if isinstance(fault, tuple) else 416 if start >= len(host.content) else 206 if start else 200
        self.send_response(status)
        body = host.content[start:] if status < 400 else b""
        if host.sizes:
            self.send_header("Content-Length", str(len(body)))
        self.send_header("Last-Modified", date)
        self.end_headers()
        self.wfile.write(body[:fault] if isinstance(fault, int) else body)

    def log_message(self, *args):
        pass


@pytest.fixture
def host(monkeypatch):
    monkeypatch.setattr(kuzushiji.time, "sleep", lambda seconds: None)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for info, content in images():
            tar.addfile(info, io.BytesIO(content))
    server = Host(buffer.getvalue())
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_fetched_whole(host, tmp_path):
    seen = []
    fetch(tmp_path / "new" / "a.tar", host.url, report=lambda *x: seen.append(x))
    assert tree(tmp_path) == {"new/a.tar": host.content}
    assert seen[-1] == (len(host.content), len(host.content))
    unpack(tmp_path / "new" / "a.tar", tmp_path, count=3)


def test_a_host_that_tells_no_size(host, tmp_path):
    host.sizes, seen = False, []
    fetch(tmp_path / "a.tar", host.url, report=lambda *x: seen.append(x))
    assert tree(tmp_path) == {"a.tar": host.content}
    assert seen[-1] == (len(host.content), None)


def test_a_connection_that_breaks_is_taken_up_again(host, tmp_path):
    host.faults = [1000, (503,), 500, (429,)]
    fetch(tmp_path / "a.tar", host.url)
    assert host.asked == [0, 1000, 1000, 1500, 1500]
    assert tree(tmp_path) == {"a.tar": host.content}


def test_what_has_come_serves_the_next_call(host, tmp_path):
    host.faults = [100] * (kuzushiji.RETRIES + 1)
    with pytest.raises(
        UnavailableError, match=r"\(the connection ended after 500 of \d+ bytes\): try again later"
    ) as e:
        fetch(tmp_path / "a.tar", host.url)
    assert host.url in str(e.value)
    assert "--archive FILE" in str(e.value)
    assert tree(tmp_path) == {"a.tar.part": host.content[:500]}
    fetch(tmp_path / "a.tar", host.url)
    assert host.asked[-1] == 500
    assert tree(tmp_path) == {"a.tar": host.content}


@pytest.mark.parametrize("change", ["content", "ranges"])
def test_pieces_of_two_files_are_not_joined(host, tmp_path, change):
    """The file at the host has changed, or the host knows no ranges: from the start."""
    (tmp_path / "a.tar.part").write_bytes(b"y" * 700)
    os.utime(tmp_path / "a.tar.part", (host.changed - 5,) * 2 if change == "content" else (host.changed,) * 2)
    host.ranges = change != "ranges"
    fetch(tmp_path / "a.tar", host.url)
    assert host.asked == [700]
    assert tree(tmp_path) == {"a.tar": host.content}


def test_a_piece_that_is_no_piece(host, tmp_path):
    (tmp_path / "a.tar.part").write_bytes(host.content + b"more")
    os.utime(tmp_path / "a.tar.part", (host.changed,) * 2)
    fetch(tmp_path / "a.tar", host.url)
    assert host.asked == [len(host.content) + 4, 0]
    assert tree(tmp_path) == {"a.tar": host.content}


def test_a_file_that_is_gone_is_asked_for_once(host, tmp_path):
    host.faults = [(404,)] * 9
    with pytest.raises(UnavailableError, match=r"\(HTTP Error 404: Not Found\)"):
        fetch(tmp_path / "a.tar", host.url)
    assert host.asked == [0]
    assert tree(tmp_path) == {}


def test_a_web_page_in_its_place(host, tmp_path):
    host.content = b"<html>down for maintenance</html>" * 99
    with pytest.raises(UnavailableError, match="something other than a tar archive arrived"):
        fetch(tmp_path / "a.tar", host.url)
    assert tree(tmp_path) == {}


def test_a_disk_that_takes_no_more(host, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DiskError, match=r"cannot write .*file/a\.tar"):
        fetch(tmp_path / "file" / "a.tar", host.url)
    assert host.asked == []


# --- the command -------------------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DDIM_CORE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def ddim(*argv):
    return cli.main([str(a) for a in argv])


def described(folder):
    return [
        "kuzushiji train: 3 images of (1, 64, 64), 3 classes",
        f"in {folder}/{FOLDER}",
        '"KMNIST Dataset" (created by CODH), adapted from "Kuzushiji Dataset" (created by NIJL and others), '
        "doi:10.20676/00000341; CC BY-SA 4.0",
    ]


def test_a_local_archive(small, tmp_path, cache, capsys):
    assert ddim("data", "kuzushiji", "--archive", small, "--count", 3) == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert lines[0] == f"{small}: sha256 {sha256_file(small)}"
    assert lines[1].startswith(f"not the sha256 {kuzushiji.REPORTED_SHA256} that a user of the archive reported")
    assert lines[2:] == described(cache / "kuzushiji")
    assert small.exists(), "the reader's own file stays"
    before = tree(cache)
    assert ddim("data", "kuzushiji", "--archive", small, "--count", 3) == 3
    assert "exists already: use it, or remove it first" in capsys.readouterr().err
    assert ddim("data", "kuzushiji", "--count", 3) == 0
    assert capsys.readouterr().out.splitlines() == described(cache / "kuzushiji")
    assert ddim("data", "kuzushiji") == 3, "not the real one's count"
    assert "holds 3 images of 3 characters instead of 140424 of 3832" in capsys.readouterr().err
    assert tree(cache) == before


def test_the_reported_sha256_is_recognised(small, cache, capsys, monkeypatch):
    monkeypatch.setattr(kuzushiji, "REPORTED_SHA256", sha256_file(small))
    assert ddim("data", "kuzushiji", "--archive", small, "--count", 3) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("the sha256 that a user of the archive reported")


def test_fetched_and_unpacked_the_archive_is_not_kept(host, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(kuzushiji.fetch, "__defaults__", (host.url,))
    assert ddim("data", "kuzushiji", "--data", tmp_path / "k") == 3
    assert os.listdir(tmp_path / "k") == ["kkanji.tar"], "of another count: kept, so that --count needs no download"
    err = capsys.readouterr().err
    assert f"--count 3 (remove {tmp_path}/k/kkanji.tar for another download)" in err
    assert ddim("data", "kuzushiji", "--data", tmp_path / "k", "--count", 3) == 0
    assert capsys.readouterr().out.splitlines()[2:] == described(tmp_path / "k")
    assert os.listdir(tmp_path / "k") == [FOLDER]
    assert host.asked == [0]


def test_a_download_that_is_damaged_is_not_in_the_way_for_ever(host, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(kuzushiji.fetch, "__defaults__", (host.url,))
    whole = host.content
    host.content = whole.replace(b"\x89PNG", b"\x89PnG")
    for _ in range(2):
        assert ddim("data", "kuzushiji", "--data", tmp_path, "--count", 3) == 3
        err = capsys.readouterr().err
        assert "is not a PNG: get the data again" in err
        assert err.endswith(f" (remove {tmp_path}/kkanji.tar for another download)\n")
    os.remove(tmp_path / "kkanji.tar")
    host.content = whole
    assert ddim("data", "kuzushiji", "--data", tmp_path, "--count", 3) == 0


def test_a_download_that_is_not_possible(offline, cache, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(kuzushiji.time, "sleep", lambda seconds: None)
    assert ddim("data", "kuzushiji") == 7
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"ddim: Kuzushiji-Kanji cannot be downloaded from {kuzushiji.URL} (")
    assert err.count("\n") == 1
    assert "--archive FILE" in err
    assert tree(tmp_path) == {}


@pytest.mark.parametrize(
    ("message", "argv"),
    [
        ("nothing.tar: no such file", ["--archive", "nothing.tar"]),
        ("'../evil.png' is not of the form", ["--archive", "evil.tar", "--count", "1"]),
        ("text.tar is not a complete tar archive", ["--archive", "text.tar"]),
    ],
)
def test_a_fault_is_one_line_and_a_code(cache, tmp_path, monkeypatch, capsys, message, argv):
    monkeypatch.chdir(tmp_path)
    archive(tmp_path / "evil.tar", [member("../evil.png", content=png(0))])
    (tmp_path / "text.tar").write_text("no archive\n" * 99, encoding="utf-8")
    before = tree(tmp_path)
    assert ddim("data", "kuzushiji", *argv) == 3
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert tree(tmp_path) == before
