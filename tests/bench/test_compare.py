"""benchmarks/compare_llama_cpp.py: what it makes of the peer's output and of ours."""

import json
import subprocess
import sys

import pytest

from tests.bench.scripts import FOLDER, script

compare = script("compare_llama_cpp")

PEER = """[
  {
    "build_commit": "0c1e570", "build_number": 1, "cpu_info": "Intel(R) Xeon(R) Processor", "gpu_info": "",
    "backends": "CPU", "model_filename": "m.gguf", "model_type": "qwen2 1.5B Q6_K", "model_size": 1458228224,
    "model_n_params": 1777088000, "n_batch": 2048, "n_ubatch": 512, "n_threads": 2, "type_k": "f16", "type_v": "f16",
    "n_prompt": 512, "n_gen": 0, "n_depth": 0, "test_time": "2026-11-24T17:24:34Z", "avg_ns": 5737688973,
    "stddev_ns": 0, "avg_ts": 89.0, "stddev_ts": 0.0, "samples_ns": [ 5737688973, 5500000000 ],
    "samples_ts": [ 89.2, 93.0 ]
  },
  {
    "n_prompt": 0, "n_gen": 128, "n_depth": 4096, "avg_ts": 10.8, "samples_ts": [ 10.7925 ]
  }
]"""
PP, TG = (512, 0, 0), (0, 128, 4096)


def test_the_peers_json_is_parsed():
    found = compare.parsed(PEER)
    assert set(found) == {PP, TG}
    assert found[PP].samples_ts == [89.2, 93.0]
    assert found[TG].median == 10.7925
    assert found[TG].limit is None
    assert [compare.name_of(test) for test in found] == ["pp512", "tg128 @ d4096"]


@pytest.mark.parametrize("text", ["", "no JSON", "{}", "[{}]", '[{"n_prompt": 1, "n_gen": 0, "samples_ts": []}]'])
def test_other_output_is_an_error_of_one_line(text):
    if text == "{}":
        assert compare.parsed(text) == {}
        return
    with pytest.raises(compare.Failed) as error:
        compare.parsed(text)
    assert "\n" not in str(error.value)


def test_the_better_build_counts_and_sides_take_turns():
    turns = []

    def side(name, pp, tg, **more):
        def run():
            turns.append(name)
            rows = [
                dict(n_prompt=512, n_gen=0, samples_ts=pp),
                dict(n_prompt=0, n_gen=128, n_depth=4096, samples_ts=tg),
            ]
            return json.dumps([row | more for row in rows])

        return run

    sides = {
        compare.OURS: side(compare.OURS, [100.0, 300.0, 120.0], [20.0], limit_ts=40.0),
        "amx": side("amx", [60.0], [8.0]),
        "avx512": side("avx512", [50.0], [10.0]),
    }
    neighbours = compare.Neighbours()
    pp, tg = compare.compared("/models/m.gguf", compare.speed("m.gguf", sides, 2, lambda what: None, neighbours))
    assert turns == [compare.OURS, "amx", "avx512", "amx", "avx512", compare.OURS]
    assert len(neighbours.shares) in (0, 6)  # 0: the system does not tell
    assert (pp["model"], pp["test"], pp["peer"], pp["ratio"]) == ("m.gguf", "pp512", "amx", 2.0)
    assert (tg["peer"], tg["ratio"], tg["share_of_limit"], tg["peer_share_of_limit"]) == ("avx512", 2.0, 0.5, 0.25)
    assert "| m.gguf | tg128 @ d4096 | 20.00 | 10.00 | 2.00 | 40.00 | 50 % | 25 % | avx512 |" in compare.table([pp, tg])
    alone = compare.compared("m.gguf", {compare.OURS: compare.parsed(PEER)})
    assert "| m.gguf | pp512 | 91.10 |  |  |  |  |  |  |" in compare.table(alone)


def test_builds_are_named_after_their_folders(tmp_path):
    amx, avx = tmp_path / "build-amx" / "bin", tmp_path / "build-avx512" / "bin"
    assert compare.names_of([amx, avx]) == {"build-amx": amx, "build-avx512": avx}
    assert len(compare.names_of([tmp_path / "a" / "bin", tmp_path / "b" / "a" / "bin"])) == 2


def test_a_peer_that_fails_is_an_error_of_one_line(tmp_path, bundled):
    peer = tmp_path / "llama-bench"
    peer.write_text("#!/bin/sh\necho one >&2; echo 'no such option' >&2; exit 3\n")
    peer.chmod(0o755)
    with pytest.raises(compare.Failed, match=r"llama-bench -x \.\.\.: status 3: no such option"):
        compare.output_of([str(peer), "-x"])
    done = subprocess.run(
        [sys.executable, FOLDER / "compare_llama_cpp.py", tmp_path / "absent", bundled],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "absent/llama-bench" in done.stderr.splitlines()[-1]


def test_first_byte_and_peak_memory():
    assert 0 < compare.first_byte([sys.executable, "-c", "print('x')"]) < 60
    assert compare.peak_memory([sys.executable, "-c", "b'x' * 200_000_000"], {}) > 200e6
    with pytest.raises(compare.Failed, match="status 4"):
        compare.first_byte([sys.executable, "-c", "raise SystemExit(4)"])
