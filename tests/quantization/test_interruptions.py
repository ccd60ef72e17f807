"""Property: however it is stopped, the old output stays, and going on gives the bytes of a run that was not stopped."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gguf_jax.errors import GGUFError, GGUFJaxError
from gguf_jax.quantization import partial
from gguf_jax.quantization.file import quantize_file
from tests.gguf.checks import one_line
from tests.quantization.models import interrupted, leftovers, refused, tensors

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.usefixtures("numpy_encoder")


def failing_after(monkeypatch, n, error):
    """`write_all` fails on the n-th piece that goes to a partial file."""
    left = [n]

    def write_all(file, data):
        left[0] -= not str(file.name).endswith(".journal")
        if left[0] <= 0:
            raise error
        whole(file, data)

    whole = partial.write_all
    monkeypatch.setattr(partial, "write_all", write_all)


@pytest.mark.parametrize("existing", [True, False])
def test_a_full_disk_leaves_the_old_output_and_resume_goes_on(model, tmp_path, monkeypatch, existing):
    out = tmp_path / "out.gguf"
    if existing:
        out.write_bytes(b"old")
    with monkeypatch.context() as patch:
        failing_after(patch, 12, OSError(errno.ENOSPC, "No space left on device"))
        with pytest.raises(
            GGUFError, match=r"No space left on device; --resume goes on from .*out\.gguf\.partial"
        ) as e:
            quantize_file(model, out, "Q8_0", force=existing)
        one_line(e)
    assert (out.read_bytes() == b"old") if existing else not out.exists()
    assert leftovers(tmp_path) == ["out.gguf.partial", "out.gguf.partial.journal"]
    seen = []
    quantize_file(model, out, "Q8_0", force=existing, resume=True, on_progress=seen.append)
    assert 0 < sum(at.kept for at in seen) < sum(at.finished for at in seen) == len(tensors())
    assert leftovers(tmp_path) == []
    quantize_file(model, tmp_path / "whole.gguf", "Q8_0")
    assert out.read_bytes() == (tmp_path / "whole.gguf").read_bytes()


def test_ctrl_c_leaves_what_is_finished_and_nothing_where_nothing_is(model, tmp_path):
    def interrupt(at):
        if at.finished and at.index == stop:
            raise KeyboardInterrupt

    for stop, left in ((3, 2), (-1, 0)):
        with pytest.raises(KeyboardInterrupt):
            quantize_file(model, tmp_path / "out.gguf", "Q8_0", on_progress=interrupt if stop > 0 else raising)
        assert len(leftovers(tmp_path)) == left


def raising(at):
    raise KeyboardInterrupt


@pytest.mark.parametrize("damage", ["flipped", "short", "gone", "torn line", "none"])
def test_resume_trusts_nothing_that_it_did_not_check(model, tmp_path, damage):
    out, part = tmp_path / "out.gguf", tmp_path / "out.gguf.partial"
    journal = tmp_path / "out.gguf.partial.journal"
    interrupted(model, out, after=6)
    kept = {"flipped": 3, "short": 3, "gone": 0, "torn line": 5, "none": 6}[damage]
    lines = journal.read_bytes().splitlines(keepends=True)
    sizes = [json.loads(line)["nbytes"] for line in lines[1:]]
    fourth = part.stat().st_size - sum(sizes[3:])  # none of them needs padding
    if damage == "flipped":
        data = bytearray(part.read_bytes())
        data[fourth + 5] ^= 1
        part.write_bytes(data)
    elif damage == "short":
        os.truncate(part, fourth + 5)
    elif damage == "gone":
        part.unlink()
    elif damage == "torn line":
        journal.write_bytes(b"".join(lines)[:-9])
    seen, warnings = [], []
    quantize_file(model, out, "Q8_0", resume=True, on_progress=seen.append, on_warning=warnings.append)
    assert sum(at.kept for at in seen) == kept
    assert bool(warnings) == (damage in ("flipped", "short", "gone"))
    quantize_file(model, tmp_path / "whole.gguf", "Q8_0")
    assert out.read_bytes() == (tmp_path / "whole.gguf").read_bytes()


def test_resume_with_other_settings_or_another_source_is_refused(model, tmp_path):
    out = tmp_path / "out.gguf"
    interrupted(model, out)
    refused(r"found other settings \(file type, types of tensors", model, out, "Q4_0", resume=True)
    refused(r"found other settings \(metadata\)", model, out, "Q8_0", resume=True, overrides={"a": 1})
    os.utime(model, (1, 1))
    refused(r"found other settings \(source\)", model, out, "Q8_0", resume=True)
    (tmp_path / "out.gguf.partial.journal").write_bytes(b"nonsense\n")
    refused("expected a journal", model, out, "Q8_0", resume=True)
    quantize_file(model, out, "Q8_0")  # anew: nothing is left of it
    assert leftovers(tmp_path) == []


def test_without_resume_it_begins_anew_and_with_nothing_left_too(model, tmp_path):
    out = tmp_path / "out.gguf"
    interrupted(model, out)
    seen, warnings = [], []
    quantize_file(model, out, "Q8_0", on_progress=seen.append)
    assert not any(at.kept for at in seen)
    quantize_file(model, out, "Q8_0", resume=True, force=True, on_warning=warnings.append)
    assert warnings == [f"{out}: nothing to go on with, so it is made from the beginning"]


def test_a_report_has_the_errors_of_kept_tensors_too(model, tmp_path):
    quantize_file(model, tmp_path / "whole.gguf", "Q4_0", report=tmp_path / "whole.json")
    interrupted(model, tmp_path / "out.gguf", file_type="Q4_0")
    quantize_file(model, tmp_path / "out.gguf", "Q4_0", report=tmp_path / "resumed.json", resume=True)
    names = ("name", "rmse", "sqnr_db", "cosine", "max_abs_error")
    rows = [
        [[row[name] for name in names] for row in json.loads((tmp_path / f"{which}.json").read_text())["tensors"]]
        for which in ("whole", "resumed")
    ]
    assert rows[0] == rows[1]


def test_partial_shards_of_another_number_are_removed(model, tmp_path):
    interrupted(model, tmp_path / "out.gguf", after=9, max_shard_size=200_000)
    assert len(leftovers(tmp_path)) > 2
    quantize_file(model, tmp_path / "out.gguf", "Q8_0")
    assert leftovers(tmp_path) == []


def test_shards_are_resumed(model, tmp_path):
    options = {"max_shard_size": 200_000}
    interrupted(model, tmp_path / "out.gguf", after=9, **options)
    seen = []
    resumed = quantize_file(model, tmp_path / "out.gguf", "Q8_0", resume=True, on_progress=seen.append, **options)
    assert sum(at.kept for at in seen) == 9
    whole = quantize_file(model, tmp_path / "whole.gguf", "Q8_0", **options)
    for ours, theirs in zip(resumed.paths, whole.paths, strict=True):
        assert Path(ours).read_bytes() == Path(theirs).read_bytes()
    assert leftovers(tmp_path) == []


KILLED = """
import sys, time
from gguf_jax.quantization import file
from tests.quantization.models import encoded

def progress(at):
    if at.finished:
        print(at.index, flush=True)
        time.sleep(0.1)

file.encode = encoded
file.quantize_file(sys.argv[1], sys.argv[2], "Q8_0", force=True, on_progress=progress)
"""


def test_killed_in_the_middle_it_leaves_the_old_output_and_can_go_on(model, tmp_path):
    out = tmp_path / "out.gguf"
    out.write_bytes(b"old")
    command = [sys.executable, "-c", KILLED, str(model), str(out)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if line.strip() == "4":
                with pytest.raises(GGUFJaxError, match="another process is writing it"):
                    quantize_file(model, out, "Q8_0", force=True)
                process.send_signal(signal.SIGKILL)
                break
    assert out.read_bytes() == b"old"
    seen = []
    quantize_file(model, out, "Q8_0", resume=True, force=True, on_progress=seen.append)
    assert sum(at.kept for at in seen) >= 5
    quantize_file(model, tmp_path / "whole.gguf", "Q8_0")
    assert out.read_bytes() == (tmp_path / "whole.gguf").read_bytes()
    assert leftovers(tmp_path) == []
