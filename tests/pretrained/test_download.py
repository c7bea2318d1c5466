"""Files from a server on this machine: resumed, checked, and never outside of the cache."""

import hashlib
import http.server
import os
import re
import sys
import threading
import time
import types

import numpy as np
import pytest
from helpers.golden_numbers import SHARED

from jaxdiff.pretrained import cards, download
from jaxdiff.pretrained.cards import AUTOENCODERS, CARDS, INCEPTION, Card, File
from jaxdiff.pretrained.opening import found, load_pretrained

DATA = np.random.default_rng(0).bytes(300_000)
HASH = hashlib.sha256(DATA).hexdigest()


class Server:
    """A server of DATA at any path but /missing; what it does wrong can be set."""

    def __init__(self):
        self.cut, self.tag, self.ranges, self.data, self.requested = None, '"1"', True, DATA, []
        self.extra = self.moved = None
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                outer.answer(self)

            def log_message(self, *_):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, handler):
        given = handler.headers.get("Range")
        self.requested.append(given)
        if handler.path.startswith("/missing"):
            return handler.send_error(404)
        if self.moved:
            handler.send_response(302)
            handler.send_header("Location", self.moved)
            return handler.end_headers()
        start = int(re.match(r"bytes=(\d+)-", given)[1]) if given and self.ranges else 0
        if start and handler.headers.get("If-Range") not in (None, self.tag):
            start = 0
        if start >= len(self.data):
            return handler.send_error(416)
        handler.send_response(206 if start else 200)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(self.data) - 1}/*")
        if self.tag:
            handler.send_header("ETag", self.tag)
        if self.extra is None:
            handler.send_header("Content-Length", str(len(self.data) - start))
        handler.end_headers()
        body = self.data[start:]
        if self.cut:
            body, self.cut = body[: self.cut[0]], self.cut[1:]
        handler.wfile.write(body + (self.extra or b""))


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.setenv("JAXDIFF_CACHE", str(tmp_path / "cache"))
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()


def card(server, path="model.pkl", sha256=HASH, size=len(DATA)):
    file = File(path, f"{server.url}/model.pkl", sha256, size)
    return Card("some-model", "edm", (file,), "", "", (1,), "edm", "EDM")


def fetch(server, **options):
    return download.fetch_card(card(server, **options), progress=False)


def test_a_file_is_fetched_once_and_its_hash_kept(server, tmp_path):
    path = fetch(server)
    assert path == tmp_path / "cache" / "some-model" / "model.pkl" and path.read_bytes() == DATA
    assert (path.parent / "model.pkl.sha256").read_text().strip() == HASH
    assert fetch(server) == path and len(server.requested) == 1
    assert sorted(p.name for p in path.parent.iterdir() if "lock" not in p.name) == [
        "model.pkl", "model.pkl.sha256",
    ]  # fmt: skip


def test_an_unknown_hash_is_printed(server, capsys):
    download.fetch_card(card(server, sha256=None))
    assert HASH in capsys.readouterr().err


def test_a_cut_is_gone_on_from(server):
    server.cut = [100_000, 50_000]  # the second connection is cut as well
    assert fetch(server).read_bytes() == DATA
    assert server.requested == [None, "bytes=100000-", "bytes=150000-"]


def test_what_arrived_is_there_for_the_next_time(server):
    server.cut = [100_000, 0]
    server.data = DATA
    with pytest.raises(OSError, match=r"100000 bytes are there.*put it at .*some-model/model.pkl"):
        fetch(server)
    server.cut = None
    assert fetch(server).read_bytes() == DATA and server.requested[-1] == "bytes=100000-"


@pytest.mark.parametrize("how", ["another file", "no ranges", "no tag"])
def test_what_cannot_be_gone_on_with_is_fetched_anew(server, how):
    server.cut = [100_000, 0]
    if how == "another file":
        server.data, server.tag = bytes(len(DATA)), '"0"'
    if how == "no tag":
        server.tag = None
    with pytest.raises(OSError):
        fetch(server, sha256=None)
    server.cut, server.data = None, DATA
    server.tag = None if how == "no tag" else '"1"'
    server.ranges = how != "no ranges"
    assert fetch(server, sha256=None).read_bytes() == DATA


def test_a_part_that_is_whole_already_is_not_asked_for_in_vain(server):
    path = fetch(server)
    path.rename(path.with_name("model.pkl.part"))
    assert fetch(server).read_bytes() == DATA and server.requested[-1] is None  # after a 416


def test_another_file_is_refused_and_nothing_of_it_kept(server, tmp_path):
    with pytest.raises(ValueError, match=f"sha256 {HASH}, expected {'0' * 64}"):
        fetch(server, sha256="0" * 64)
    with pytest.raises(ValueError, match="300000 bytes, not 7"):
        fetch(server, size=7)
    server.extra = b"more"
    with pytest.raises(ValueError, match="more than the 300000 bytes"):
        fetch(server)
    left = {p.name for p in (tmp_path / "cache" / "some-model").iterdir()}
    assert left <= {"model.pkl.lock", "model.pkl.state"}


def test_a_kept_file_that_is_another_is_refused(server):
    path = fetch(server)
    with pytest.raises(ValueError, match=f"has sha256 {HASH}, not {'0' * 64}: remove it"):
        fetch(server, sha256="0" * 64)
    path.write_bytes(b"short")
    with pytest.raises(ValueError, match="has 5 bytes, not 300000"):
        fetch(server)


def test_files_put_there_by_hand_are_taken(server, tmp_path):
    path = tmp_path / "cache" / "some-model" / "model.pkl"
    path.parent.mkdir(parents=True)
    path.write_bytes(DATA)
    assert fetch(server) == path and server.requested == []


def test_without_a_network_address_and_place_are_said(server, tmp_path):
    with pytest.raises(OSError, match="404.*put it at"):
        download.fetch_url(f"{server.url}/missing/a.pkl", progress=False)
    server.http.shutdown()
    server.http.server_close()
    started = time.monotonic()
    with pytest.raises(OSError, match=r"(?s)cannot fetch http://127.*model.pkl.*put it at .*cache"):
        fetch(server)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    "path",
    ["../a", "a/../../b", "/etc/passwd", "", "a//b", ".", "..", "a\\b", "a\n", "~/a", "a/.",
     ".bashrc", "a.part", "a.sha256", "x" * 300, "a\0b"],
)  # fmt: skip
def test_names_that_lead_elsewhere_are_refused(server, path):
    with pytest.raises(ValueError, match="no name of a file"):
        fetch(server, path=path)
    assert server.requested == []


def test_links_that_lead_elsewhere_are_refused(server, tmp_path):
    outside, folder = tmp_path / "outside", tmp_path / "cache" / "some-model"
    outside.mkdir()
    folder.mkdir(parents=True)
    os.symlink(outside, folder / "sub")
    os.symlink(outside / "victim", folder / "model.pkl.part")
    for path in ("sub/model.pkl", "model.pkl"):
        with pytest.raises(ValueError, match="symbolic link"):
            fetch(server, path=path)
    assert not list(outside.iterdir())


def test_addresses_other_than_of_the_web_are_refused(server, tmp_path):
    (tmp_path / "secret").write_text("secret")
    for url in (f"file://{tmp_path}/secret", "ftp://127.0.0.1/a"):
        with pytest.raises(ValueError, match="https or http"):
            download.fetch_url(url, progress=False)
    server.moved = f"file://{tmp_path}/secret"
    with pytest.raises(OSError, match="cannot fetch"):
        download.fetch_url(f"{server.url}/a", progress=False)


def test_an_address_may_say_its_hash(server, tmp_path):
    path = download.fetch_url(f"{server.url}/some/net%20work.pth?x=1#sha256={HASH}", progress=False)
    assert path.name == "net work.pth" and path.read_bytes() == DATA
    with pytest.raises(ValueError, match="64 hexadecimal"):
        download.fetch_url(f"{server.url}/a#sha256=12", progress=False)
    assert download.fetch_url(server.url, progress=False).name == "file"


def test_names_of_cards_are_found_after_paths(server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    known = {"some-model": card(server)}
    assert found("some-model", known).read_bytes() == DATA
    (tmp_path / "some-model").write_text("mine")
    assert found("some-model", known).read_text() == "mine"
    with pytest.raises(FileNotFoundError, match="edm-cifar10-32x32-uncond-vp"):
        found("edm-cifar10-uncond-vp")


@pytest.mark.slow
def test_a_model_says_what_its_card_says(server, monkeypatch):
    snapshot = SHARED / "edm_pickles" / "network-snapshot-edm_ddpmpp_cond.pkl"
    if not snapshot.exists():
        pytest.skip(f"{snapshot.name} is not beside this checkout")
    server.data = snapshot.read_bytes()
    known = card(server, sha256=None, size=None)._replace(licence="CC", score="FID 2")
    monkeypatch.setitem(CARDS, "some-model", known)
    model = load_pretrained("some-model")
    assert (model.metadata["licence"], model.metadata["score"]) == ("CC", "FID 2")
    assert "some-model" in repr(model) and "guidance" not in model.metadata


def test_the_hub_s_own_client_is_taken_where_it_is(server, tmp_path, monkeypatch):
    def hf_hub_download(repository, path, local_dir):
        assert (repository, path) == ("some/model", "unet/a.bin")
        target = tmp_path / "fetched"
        target.write_bytes(DATA)
        return str(target)

    module = types.SimpleNamespace(hf_hub_download=hf_hub_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    (file,) = cards._hub("some/model", "unet/a.bin")
    target = download.place_of(download.cache_folder() / "m", file.path)
    assert download.fetch_file(file, target, progress=False).read_bytes() == DATA


def test_cards_are_whole():
    from jaxdiff.prediction import PREDICTIONS

    for name, one in {**CARDS, **AUTOENCODERS, **INCEPTION}.items():
        assert one.name == name and one.licence and one.source.startswith("https://") and one.files
        assert (one.prediction in PREDICTIONS) == (name in CARDS) and all(n > 0 for n in one.shape)
        assert len({file.path for file in one.files}) == len(one.files)
        for file in one.files:
            assert file.url.startswith("https://") or one.family == "jaxdiff" and not file.url
            assert file.sha256 is None or re.fullmatch("[0-9a-f]{64}", file.sha256)
            download.place_of(download.cache_folder() / name, file.path)
    assert cards._SECOND[-1] == "tokenizer_2/tokenizer_config.json"
    assert cards._SECOND[0] == "text_encoder_2/config.json"
