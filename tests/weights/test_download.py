"""Files fetched over http, and from the Hugging Face hub: its own library against a server that answers as the hub does."""

import hashlib
import json
import os
import re
import subprocess
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ENV, PYTHON, listening, randn, randomised, relative, served
from packaging.requirements import Requirement
from peers import LARGER, answer, made_by_diffusers, peer, to_format_b
from safetensors.torch import save

from ddim_core import UNet, cli
from ddim_core.errors import CheckpointError, DiskError, UnavailableError
from ddim_core.weights import describe, load_pretrained
from ddim_core.weights.download import _unavailable
from ddim_core.weights.formats import CIFAR10, FORMAT_B_FILES
from ddim_core.weights.registry import CIFAR10_ON_HUB as HUB
from ddim_core.weights.registry import Source, resolve

CONTENT = np.random.default_rng(0).bytes(100_000)
TENSORS, PICKLED = FORMAT_B_FILES
COMMIT, OTHER = "a" * 40, "b" * 40
SMALL = {"config.json": b"{}", TENSORS: CONTENT}


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def tagged(content):
    return f"sha256:{sha256(content)}"


def cached(tmp_path):
    return [p for p in (tmp_path / "cache").rglob("*") if not p.is_dir()]


@contextmanager
def hub(commits, lie=None):
    """A hub of one repository: (its address, the requests so far). `commits`: {commit: {file: content}}, the first one
    is main. `lie`: a file of which other bytes come than are stated; "cut": half of it; a number: a status for all."""
    requests = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self):
            head, _, rest = self.path.lstrip("/").partition("/resolve/")
            revision, _, file = rest.partition("/")
            revision = next(iter(commits)) if revision == "main" else revision
            if not head.startswith("google/ddpm-"):  # what the library asks for itself
                return self.reply(404, {}, b"")
            requests.append((self.command, file))
            if isinstance(lie, int):
                return self.reply(lie, {}, b"")
            if revision not in commits:
                return self.reply(404, {"X-Error-Code": "RevisionNotFound"}, b"")
            headers = {"X-Repo-Commit": revision}
            if file not in commits[revision]:
                return self.reply(404, headers | {"X-Error-Code": "EntryNotFound"}, b"")
            content = commits[revision][file]
            if file == "config.json":
                blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
                headers["ETag"] = f'"{blob}"'
            else:
                headers |= {"X-Linked-Etag": f'"{sha256(content)}"', "X-Linked-Size": str(len(content))}
            if file == lie:
                content = content[:-1] + b"?"
            return self.reply(200, headers, content)

        def reply(self, status, headers, content):
            self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(content))}).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content[: len(content) // 2] if lie == "cut" else content)

        do_HEAD = do_GET = answer

        def log_message(self, *args):
            pass

    with listening(Handler) as address:
        yield address, requests


@pytest.fixture(autouse=True)
def _impatient(monkeypatch, tmp_path):
    """Between two tries nobody waits."""
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def at(monkeypatch):
    """`with at(commits):` is a hub that the library asks."""

    @contextmanager
    def use(commits, lie=None):
        with hub(commits, lie) as (address, requests):
            monkeypatch.setenv("HF_ENDPOINT", address)
            yield requests

    return use


def fetched(requests):
    return [file for verb, file in requests if verb == "GET"]


@pytest.fixture(scope="module")
def large():
    """The network in its full size, none of its parameters without effect, and what the hub has of it."""
    net = randomised(UNet(CIFAR10), seed=4).eval()
    state = to_format_b(net.state_dict(), len(CIFAR10.ch_mult), "old")
    settings = json.loads(peer(CIFAR10).to_json_string())
    return net, {
        "config.json": json.dumps(settings).encode(),
        TENSORS: save({k: v.contiguous() for k, v in state.items()}),
    }


# --- over http --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["md5", "sha256"])
def test_a_download_is_kept_and_verified_each_time(tmp_path, capfd, algorithm):
    digest = hashlib.new(algorithm, CONTENT).hexdigest()
    with served(CONTENT, "whole") as (url, given):
        wanted = Source(url, f"{algorithm}:{digest}")
        path = wanted.fetch()[0]
        assert path.read_bytes() == CONTENT
        assert wanted.fetch()[0] == path
        assert given == ["whole"], "the second came from the cache"
        path.write_bytes(CONTENT[:-1])
        assert wanted.fetch()[0].read_bytes() == CONTENT, "a damaged copy is fetched again"
        assert given == ["whole"] * 2
        path.write_bytes(CONTENT[:-1])
    with pytest.raises(UnavailableError):
        wanted.fetch()[0]
    assert cached(tmp_path) == [path]
    assert capfd.readouterr() == ("", ""), "no noise where there is no terminal"


def test_a_download_is_tried_again(tmp_path):
    with served(CONTENT, "cut", 503, "whole") as (url, given):
        path = Source(url, tagged(CONTENT)).fetch()[0]
    assert path.read_bytes() == CONTENT
    assert given == ["cut", 503, "whole"]
    assert cached(tmp_path) == [path]


@pytest.mark.parametrize(
    ("reply", "digest", "times", "reason"),
    [
        ("cut", tagged(CONTENT), 3, "50000"),
        (404, tagged(CONTENT), 3, "404 Client Error: Not Found"),
        ("page", tagged(CONTENT), 1, "a web page arrived instead of the file"),
        ("whole", tagged(b"other"), 1, "another file arrived: its sha256 differs"),
        ("whole", "md5:" + "0" * 32, 1, "another file arrived: its md5 differs"),
    ],
)
def test_a_download_that_fails_is_one_line_and_leaves_nothing(tmp_path, monkeypatch, reply, digest, times, reason):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with served(CONTENT, reply) as (url, given), pytest.raises(UnavailableError) as e:
        Source(url, digest).fetch()[0]
    message = str(e.value)
    assert message.startswith(f"weights cannot be downloaded from {url} (")
    assert reason in message
    assert "load_public(PATH), or --weights PATH" in message
    assert "\n" not in message
    assert given == [reply] * times
    assert cached(tmp_path) == []


def test_a_download_is_written_while_it_comes(tmp_path):
    """And not held in memory until it is whole: the last byte is sent when others have reached the disk."""
    content, on_disk = CONTENT * 40, []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[:-1])
            end = time.monotonic() + 20
            while not (size := sum(p.stat().st_size for p in cached(tmp_path))) and time.monotonic() < end:
                threading.Event().wait(0.01)
            on_disk.append(size)
            self.wfile.write(content[-1:])

        def log_message(self, *args):
            pass

    with listening(Handler) as address:
        assert Source(f"{address}/ema.ckpt", tagged(content)).fetch()[0].read_bytes() == content
    assert 0 < on_disk[0] < len(content)


def test_a_failed_download_does_not_harm_what_is_cached(tmp_path):
    with served(CONTENT, "whole") as (url, _):
        path = Source(url, tagged(CONTENT)).fetch()[0]
    with served(b"other", "whole") as (url, _), pytest.raises(UnavailableError):
        Source(url, tagged(b"another")).fetch()[0]
    assert cached(tmp_path) == [path]
    assert Source(url, tagged(CONTENT)).fetch()[0].read_bytes() == CONTENT


def test_a_cache_that_cannot_be_written(tmp_path):
    (tmp_path / "cache").write_text("not a folder", encoding="utf-8")
    with served(CONTENT, "whole") as (url, _), pytest.raises(DiskError, match="set DDIM_CORE_CACHE") as e:
        Source(url, tagged(CONTENT)).fetch()[0]
    assert "\n" not in str(e.value)


# --- from the hub ------------------------------------------------------------------------------------------------


def test_the_network_from_the_hub(large, at):
    net, files = large
    with at({COMMIT: files}):
        model, schedule = load_pretrained(HUB)
    assert schedule.T == 1000
    state = model.net.state_dict()
    assert all(torch.equal(state[k], v) for k, v in net.state_dict().items())


def test_a_larger_network_from_the_hub(at, tmp_path):
    """Its settings come along, and say what it is."""
    other = made_by_diffusers(LARGER | {"block_out_channels": [32, 32, 64, 64, 128, 128]}, tmp_path / "b")
    files = {path.name: path.read_bytes() for path in (tmp_path / "b").iterdir()}
    with at({COMMIT: files}) as requests:
        model, _ = load_pretrained(f"google/ddpm-ema-church-256@{COMMIT}")
    assert fetched(requests) == ["config.json", TENSORS]
    assert (model.config.resolution, model.config.ch_mult) == (256, (1, 1, 2, 2, 4, 4))
    xt = randn(1, 3, 32, 32, seed=2)
    assert relative(answer(model, xt, 501), answer(other, xt, 500)) < 1e-5


def test_it_is_kept_and_verified_each_time(at, capfd):
    with at({COMMIT: SMALL}) as requests:
        path = resolve(HUB)
        assert path.read_bytes() == SMALL[TENSORS]
        assert path.with_name("config.json").read_bytes() == b"{}"
        assert fetched(requests) == ["config.json", TENSORS]
        assert resolve(HUB) == path
        assert fetched(requests) == ["config.json", TENSORS], "the second came from the cache"
        path.resolve().write_bytes(SMALL[TENSORS][:-1] + b"?")
        assert resolve(HUB).read_bytes() == SMALL[TENSORS], "a damaged copy is fetched again"
        assert fetched(requests) == ["config.json", TENSORS, TENSORS]
    assert resolve(HUB) == path, "the hub is not needed any more"
    path.resolve().write_bytes(SMALL[TENSORS][:-1] + b"?")
    with pytest.raises(UnavailableError, match="weights cannot be downloaded from"):
        resolve(HUB)
    assert capfd.readouterr() == ("", ""), "no noise where there is no terminal"


def test_a_certain_commit(at):
    old = SMALL | {TENSORS: b"older" * 99}
    with at({COMMIT: SMALL, OTHER: old}) as requests:
        assert resolve(f"{HUB}@{OTHER}").read_bytes() == old[TENSORS]
        assert resolve(HUB).read_bytes() == SMALL[TENSORS]
        with pytest.raises(UnavailableError, match="Revision Not Found") as e:
            resolve(f"{HUB}@{'c' * 40}")
        assert "\n" not in str(e.value)
        assert f"/{HUB}/tree/ccc" in str(e.value)
        n = len(requests)
        assert resolve(f"{HUB}@{OTHER}").read_bytes() == old[TENSORS]
        assert len(requests) == n, "what a commit holds never changes: nobody is asked"


def test_a_hub_that_moves_on_meanwhile(at):
    """Settings and tensors are of one commit."""
    with at({COMMIT: SMALL}):
        resolve(HUB)
    with at({OTHER: {"config.json": b"[]", TENSORS: b"new"}, COMMIT: SMALL}):
        path = resolve(HUB)
    assert (path.read_bytes(), path.with_name("config.json").read_bytes()) == (b"new", b"[]")


def test_older_repositories_have_a_pickle_whose_code_is_not_run(at):
    import pickle

    class Code:
        def __reduce__(self):
            return os.mkdir, ("code was run",)

    files = {"config.json": b"{}", PICKLED: pickle.dumps({"conv_in.weight": Code()})}
    with at({COMMIT: files}):
        assert resolve(HUB).name == PICKLED
        with pytest.raises(CheckpointError, match="torch's restricted unpickler refuses it"):
            load_pretrained(HUB)
    assert not Path("code was run").exists()


def test_where_links_are_not_possible(at):
    """The cache then has no name that states the hash: the hub is asked for it."""
    with at({COMMIT: SMALL}):
        path = resolve(HUB)
        for content in (SMALL[TENSORS], b"damaged"):
            path.unlink()
            path.write_bytes(content)
            assert resolve(HUB).read_bytes() == SMALL[TENSORS]


def without_links(path):
    """As a cache is where symbolic links are not possible, or where it was copied without them."""
    content = path.read_bytes()
    for blob in (path.parents[2] / "blobs").iterdir():
        blob.unlink()
    path.unlink()
    path.write_bytes(content)
    path.with_name("config.json").unlink()
    path.with_name("config.json").write_bytes(SMALL["config.json"])


@pytest.mark.parametrize("name", [HUB, f"{HUB}@{COMMIT}"])
def test_where_links_are_not_possible_and_the_hub_does_not_answer(at, capsys, name):
    with at({COMMIT: SMALL}):
        path = resolve(name)
        without_links(path)
    assert resolve(name) == path
    assert cli.main(["download", name]) == 0
    stated = f"{path}: sha256:{sha256(SMALL[TENSORS])}, not compared: the hub is silent\n"
    assert capsys.readouterr() == (stated, ""), "nothing is claimed that was not done"
    with at({COMMIT: SMALL}):
        assert cli.main(["download", name]) == 0
    assert capsys.readouterr().out.endswith(", as the hub states it\n")


def in_a_process(tmp_path, *names, **environment):
    """`ddim download` of each where no package knows the SOCKS protocol: [(code, stdout, stderr)]."""
    run = f"""
import io, json, sys, time
from contextlib import redirect_stderr, redirect_stdout
sys.modules |= {{"socks": None, "socksio": None}}
time.sleep = lambda seconds: None
from ddim_core.cli import main
said = []
for name in {names!r}:
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        code = main(["download", name])
    said.append((code, out.getvalue(), err.getvalue()))
print(json.dumps(said))
"""
    env = {k: v for k, v in ENV.items() if not k.lower().endswith("_proxy")} | {"HF_HOME": str(tmp_path / "home")}
    env |= {"DDIM_CORE_CACHE": str(tmp_path / "cache")} | environment
    done = subprocess.run([PYTHON, "-c", run], env=env, cwd=tmp_path, capture_output=True, text=True, encoding="utf-8")
    assert done.stderr == ""
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        (
            {"ALL_PROXY": "socks5://127.0.0.1:9"},
            "install what the proxy needs (pip install pysocks socksio), or try again",
        ),
        ({"HTTPS_PROXY": "gopher://127.0.0.1:9"}, "by other means and name it"),
        (
            {"REQUESTS_CA_BUNDLE": "/nowhere", "SSL_CERT_FILE": "/nowhere", "HTTPS_PROXY": "http://127.0.0.1:9"},
            "by other",
        ),
        ({"HF_ENDPOINT": "https://a b", "DDIM_CORE_CIFAR10_URL": "https://[1"}, "by other means and name it"),
    ],
    ids=["SOCKS", "unknown proxy", "no certificates", "no address"],
)
def test_whatever_a_client_raises_is_one_line(tmp_path, environment, said):
    for code, out, err in in_a_process(tmp_path, HUB, "cifar10", **environment):
        assert (code, out, err.count("\n")) == (7, "", 1), err
        assert err.startswith("ddim: weights cannot be downloaded from http")
        assert said in err


def needed(distribution, extra=""):
    """Names, in lower case, of what an installed package requires, with one of its extras."""
    lines = [Requirement(line) for line in metadata.requires(distribution) or []]
    return {r.name.lower() for r in lines if r.marker is None or r.marker.evaluate({"extra": extra})}


def test_the_packages_for_a_socks_proxy_are_those_that_the_clients_ask_for():
    """The remedy names all that these two, as they are installed here, require under their extra "socks"."""
    hub_client = (needed("huggingface_hub") & {"httpx2", "httpx", "requests"}).pop()
    wanted = set().union(*(needed(client, "socks") - needed(client) for client in {"requests", hub_client}))
    assert wanted, "or their extra has another name now"
    said = re.search(r"\(pip install ([a-z ]+)\)", str(_unavailable("https://a", "no SOCKS", "try again")))[1]
    assert wanted <= set(said.split())
    refused = "SOCKSHTTPSConnection(host='a', port=443): Failed to establish a new connection: Connection refused"
    assert "pip" not in str(_unavailable("https://a", refused, "try again")), "what one says who has them"


def test_what_a_killed_download_left_is_swept(tmp_path):
    """But not what another process is writing."""
    with served(CONTENT, "whole") as (url, _):
        wanted = Source(url, tagged(CONTENT))
        wanted.path.parent.mkdir(parents=True)
        old, new = wanted.path.with_name("tmp0123abcd"), wanted.path.with_name("tmp4567abcd")
        for left in (old, new):
            left.write_bytes(b"half")
        os.utime(old, (time.time() - 7200,) * 2)
        wanted.fetch()
    assert sorted(cached(tmp_path)) == sorted([wanted.path, new])


# --- faults ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "lie", "reason"),
    [
        (SMALL, TENSORS, "another file arrived: its sha256 differs from the stated one"),
        (SMALL, "cut", "peer closed connection|IncompleteRead"),  # with hub 1 and later; before
        (SMALL, 503, "503"),
        (SMALL, 404, "404"),
        (SMALL, 401, "401"),
        ({"config.json": b"{}"}, None, "Entry Not Found"),
        ({TENSORS: b"x"}, None, "Entry Not Found"),
    ],
    ids=str,
)
def test_a_download_that_fails_is_one_line(at, tmp_path, files, lie, reason):
    with at({COMMIT: files}, lie), pytest.raises(UnavailableError) as e:
        resolve(HUB)
    message = str(e.value)
    assert message.startswith("weights cannot be downloaded from http://127.0.0.1:")
    assert re.search(reason, message)
    assert message.endswith("load_public(PATH), or --weights PATH")
    assert "\n" not in message
    assert not [p for p in tmp_path.rglob(f"snapshots/*/{TENSORS}") if p.is_file()], (
        "nothing is left that could pass for the file"
    )
    with at({COMMIT: SMALL}):
        assert resolve(HUB).read_bytes() == SMALL[TENSORS], "nor is anything in the way"


def test_the_hub_offline(at, offline, capfd):
    with at({COMMIT: SMALL}):
        pass
    assert cli.main(["download", HUB]) == 7
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("ddim: weights cannot be downloaded from http://127.0.0.1:")


def test_the_hub_offline_in_a_process_of_its_own(tmp_path):
    """One line, though the library tells of every retry once it is set up."""
    run = f"import time; time.sleep = lambda s: None; from ddim_core.cli import main; exit(main(['download', '{HUB}']))"
    env = ENV | {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "home"), "NO_PROXY": "127.0.0.1"}
    done = subprocess.run([PYTHON, "-c", run], env=env, cwd=tmp_path, capture_output=True, text=True, encoding="utf-8")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (7, "", 1), done.stderr


def test_a_cache_of_the_hub_that_cannot_be_written(at, tmp_path):
    (tmp_path / "hub").write_text("not a folder", encoding="utf-8")
    with at({COMMIT: SMALL}), pytest.raises(DiskError, match="set HF_HOME") as e:
        resolve(HUB)
    assert "\n" not in str(e.value)


def test_a_web_page_for_the_settings(at):
    files = {"config.json": b"<html>sign in</html>", TENSORS: save({"time_embedding.x": torch.ones(1)})}
    with at({COMMIT: files}), pytest.raises(CheckpointError, match=r"config\.json is missing or not readable"):
        load_pretrained(HUB)


# --- the command line --------------------------------------------------------------------------------------------


def test_info_and_download_of_the_hub(at, capsys):
    with at({COMMIT: SMALL}):
        assert describe(HUB)["sha256"] is None
        assert cli.main(["download", HUB]) == 0
        printed = capsys.readouterr().out
        found = describe(HUB)
    path = found["provenance"]["file"]
    assert printed == f"{path}: sha256:{sha256(SMALL[TENSORS])}, as the hub states it\n"
    assert found["sha256"] == sha256(SMALL[TENSORS])
    assert found["provenance"]["url"].endswith(f"/{HUB}")


def test_sample_from_the_hub_in_a_process_of_its_own(large, tmp_path):
    """As a user runs it: mirror and cache come from the environment."""
    with hub({COMMIT: large[1]}) as (address, requests):
        env = ENV | {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "home"), "NO_PROXY": "127.0.0.1"}
        argv = [
            "sample",
            "--weights",
            f"{HUB}@{COMMIT}",
            "--n",
            "1",
            "--steps",
            "1",
            "--device",
            "cpu",
            "--out",
            "x.npy",
        ]
        done = subprocess.run(
            [PYTHON, "-m", "ddim_core", *argv], env=env, cwd=tmp_path, capture_output=True, text=True, encoding="utf-8"
        )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert fetched(requests) == ["config.json", TENSORS]
    assert np.load(tmp_path / "x.npy").shape == (1, 3, 32, 32)
