"""Published files: where they are looked for, how they are known, what is never kept."""

import hashlib
import http.server
import socket
import threading
from dataclasses import replace
from functools import partial

import pytest

from keras_squeezenet import downloads

CONTENT = b"the published bytes"


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A web server's folder with the published file, a fresh Keras cache, and that file's entry."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.delenv(downloads.FOLDER_VARIABLE, raising=False)
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "published.bin").write_bytes(CONTENT)
    handler = partial(QuietHandler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield downloads.PublishedFile(
            what="ImageNet weights of a test",
            name="published.bin",
            url=f"http://127.0.0.1:{server.server_port}/published.bin",
            sha256=hashlib.sha256(CONTENT).hexdigest(),
        )
        server.shutdown()
        thread.join()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    requests = 0

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        type(self).requests += 1
        super().do_GET()


def cached(tmp_path):
    return tmp_path / "keras" / "models" / "published.bin"


def test_a_published_file_is_downloaded_once_into_the_cache_of_keras(site, tmp_path, capsys):
    before = QuietHandler.requests
    assert downloads.published_path(site) == cached(tmp_path)
    assert downloads.published_path(site).read_bytes() == CONTENT
    assert QuietHandler.requests - before == 1
    assert [file.name for file in cached(tmp_path).parent.iterdir()] == ["published.bin"]
    assert capsys.readouterr().out == ""  # standard output belongs to the results


def test_the_users_own_folder_is_looked_in_first(site, tmp_path, monkeypatch):
    mine = tmp_path / "mine"
    mine.mkdir()
    monkeypatch.setenv(downloads.FOLDER_VARIABLE, str(mine))
    assert downloads.published_path(site) == cached(tmp_path)  # nothing there: as without it
    (mine / site.name).write_bytes(CONTENT)
    assert downloads.published_path(site) == mine / site.name


def test_a_download_with_another_hash_is_refused_and_not_kept(site, tmp_path):
    expected = replace(site, sha256=hashlib.sha256(b"other bytes").hexdigest())
    with pytest.raises(downloads.PublishedFileError) as caught:
        downloads.published_path(expected)
    for part in (expected.sha256, site.sha256, site.url):
        assert part in str(caught.value)
    assert list(cached(tmp_path).parent.iterdir()) == []


def test_a_wrong_file_in_the_users_folder_is_refused_and_the_cache_stays(
    site, tmp_path, monkeypatch
):
    downloads.published_path(site)
    (tmp_path / site.name).write_bytes(b"wrong")
    monkeypatch.setenv(downloads.FOLDER_VARIABLE, str(tmp_path))
    with pytest.raises(downloads.PublishedFileError, match=r"SHA-256.*Received: .*published\.bin"):
        downloads.published_path(site)
    assert cached(tmp_path).read_bytes() == CONTENT


def test_a_damaged_file_in_the_cache_is_downloaded_again(site, tmp_path):
    downloads.published_path(site)
    cached(tmp_path).write_bytes(CONTENT[:-1])
    assert downloads.published_path(site).read_bytes() == CONTENT


def test_a_failed_download_leaves_a_damaged_file_where_it_was(site, tmp_path):
    cached(tmp_path).parent.mkdir(parents=True)
    cached(tmp_path).write_bytes(b"placed by hand, wrong")
    with pytest.raises(downloads.PublishedFileError, match="404"):
        downloads.published_path(replace(site, url=site.url + ".missing"))
    assert cached(tmp_path).read_bytes() == b"placed by hand, wrong"


def test_without_network_the_error_says_url_cache_and_folder(site, tmp_path):
    offline = replace(site, url="http://127.0.0.1:9/published.bin")
    with pytest.raises(downloads.PublishedFileError) as caught:
        downloads.published_path(offline)
    text = str(caught.value)
    assert "\n" not in text
    for part in (offline.url, str(cached(tmp_path)), "KERAS_SQUEEZENET_WEIGHTS"):
        assert part in text
    assert list(cached(tmp_path).parent.iterdir()) == []


def test_a_cache_that_cannot_be_made_is_said(site, tmp_path):
    (tmp_path / "keras").write_text("a file where the folder should be")
    with pytest.raises(downloads.PublishedFileError, match="cannot be downloaded"):
        downloads.published_path(site)


def test_a_missing_folder_of_the_user_is_said(site, tmp_path, monkeypatch):
    monkeypatch.setenv(downloads.FOLDER_VARIABLE, str(tmp_path / "no"))
    with pytest.raises(downloads.PublishedFileError, match=r"must name a folder\. Received: .*no$"):
        downloads.published_path(site)


def test_what_is_at_hand_is_whole_and_needs_no_network(site, tmp_path, monkeypatch):
    offline = replace(site, url="http://127.0.0.1:9/published.bin")
    assert not offline.is_at_hand
    cached(tmp_path).parent.mkdir(parents=True)
    cached(tmp_path).write_bytes(CONTENT[:-1])
    assert not offline.is_at_hand
    cached(tmp_path).write_bytes(CONTENT)
    assert offline.is_at_hand
    cached(tmp_path).unlink()
    (tmp_path / offline.name).write_bytes(CONTENT)
    monkeypatch.setenv(downloads.FOLDER_VARIABLE, str(tmp_path))
    assert offline.is_at_hand
    # Other bytes in the user's folder are refused, whatever is in the cache.
    cached(tmp_path).write_bytes(CONTENT)
    (tmp_path / offline.name).write_bytes(CONTENT[:-1])
    assert not offline.is_at_hand
    with pytest.raises(downloads.PublishedFileError):
        downloads.published_path(offline)


def test_a_server_that_sends_nothing_is_given_up(site, monkeypatch):
    monkeypatch.setattr(downloads, "SECONDS_WITHOUT_A_BYTE", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it never accepts
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/published.bin"
        with pytest.raises(downloads.PublishedFileError, match="timed out"):
            downloads.published_path(replace(site, url=url))
    assert socket.getdefaulttimeout() is None
