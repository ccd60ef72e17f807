"""Contract: of a remote file the header is fetched, and no more; errors are one line."""

import numpy as np
import pytest

from gguf_jax.errors import GGUFError
from gguf_jax.gguf import read, write
from gguf_jax.gguf.remote import FIRST_FETCH, is_remote
from tests.gguf.checks import one_line
from tests.gguf.craft import small_file
from tests.gguf.server import serving
from tests.gguf.test_shards import TENSORS, write_shards

MIB = 1 << 20


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> bytes:
    """A file of 24 MiB with a header of 5 MiB."""
    path = tmp_path_factory.mktemp("remote") / "large.gguf"
    tokens = [f"token {i:040d}" for i in range(100_000)]
    write(path, {"a": 1, "tokens": tokens}, {"t": np.zeros((19, MIB // 4), np.float32)})
    return path.read_bytes()


def test_only_the_header_is_fetched(large):
    with serving({"/large.gguf": large}) as server:
        with read(f"{server.address}/large.gguf") as file:
            assert file.size == len(large)
            assert len(file.metadata["tokens"]) == 100_000
            assert file.metadata["tokens"][-1] == f"token {99_999:040d}"
            view = file.tensors["t"]
            assert (view.shape, view.nbytes) == ((19, MIB // 4), 19 * MIB)
            with pytest.raises(GGUFError, match="only the header was fetched") as error:
                view.blocks()
            one_line(error)
        assert server.sent == 8 * MIB
        ranges = [request for request in server.requests if request.startswith("GET")]
        assert ranges == [
            f"GET bytes={first}-{end - 1}"
            for first, end in ((0, MIB), (MIB, 2 * MIB), (2 * MIB, 4 * MIB), (4 * MIB, 8 * MIB))
        ]


def test_a_small_file_takes_one_request():
    content = small_file()
    with serving({"/a.gguf": content}) as server:
        assert read(f"{server.address}/a.gguf", strict=True).metadata["tokens"] == ["a", "", "wörld"]
        assert server.sent == len(content) < FIRST_FETCH


def test_shards(tmp_path):
    paths = write_shards(tmp_path, [[0, 1], [2, 3, 4]])
    files = {f"/{path.name}": path.read_bytes() for path in paths}
    with serving(files) as server:
        file = read(f"{server.address}/{paths[1].name}")
        assert list(file.tensors) == list(TENSORS)
        assert len(file.paths) == 2
        del files[f"/{paths[0].name}"]
        with pytest.raises(
            GGUFError, match=r"00001-of-00002.gguf: cannot be fetched: the server answered 404"
        ) as error:
            read(f"{server.address}/{paths[1].name}")
        one_line(error)


def test_a_server_without_ranges(large):
    """What fits the first request is had all the same; more is refused, not downloaded."""
    with serving({"/small.gguf": small_file(), "/large.gguf": large}, ranges=False) as server:
        assert len(read(f"{server.address}/small.gguf").tensors) == 4
        with pytest.raises(GGUFError, match="range") as error:
            read(f"{server.address}/large.gguf")
        one_line(error)


def test_a_server_that_tells_no_size():
    with (
        serving({"/a.gguf": small_file()}, sizes=False) as server,
        pytest.raises(GGUFError, match="size of the file") as error,
    ):
        read(f"{server.address}/a.gguf")
    one_line(error)


def test_a_header_is_bounded(large, monkeypatch):
    monkeypatch.setattr("gguf_jax.gguf.remote.MAX_HEADER", 2 * MIB)
    with serving({"/large.gguf": large}) as server:
        with pytest.raises(GGUFError, match=f"at most {2 * MIB} bytes") as error:
            read(f"{server.address}/large.gguf")
        one_line(error)
        assert server.sent == 2 * MIB


@pytest.mark.parametrize("cut", [0, 3, 100, 1000])
def test_cut_and_broken_files(cut):
    with serving({"/a.gguf": small_file()[:cut]}) as server, pytest.raises(GGUFError) as error:
        read(f"{server.address}/a.gguf")
    one_line(error)


def test_errors_name_the_file_and_no_secret():
    with serving({}) as server, pytest.raises(GGUFError, match="the server answered 404") as error:
        read(f"{server.address}/missing.gguf?token=secret")
    assert "secret" not in one_line(error)
    with pytest.raises(GGUFError, match="cannot be fetched") as error:
        read(f"{server.address}/gone.gguf?token=secret")
    assert "secret" not in one_line(error)
    with pytest.raises(GGUFError, match="cannot be fetched") as error:
        read("nonsense://host/file.gguf")
    one_line(error)


def test_what_is_remote():
    assert is_remote("https://host/a.gguf")
    assert is_remote("hf://user/repo/a.gguf")
    assert not is_remote("folder/a.gguf")
    assert not is_remote("C:\\folder\\a.gguf")
    assert not is_remote("./https://a.gguf")
