"""Exact: types, order and metadata are those of llama-quantize, whose runs tools/make_recipe_golden.py has recorded."""

import gzip
import json
import subprocess
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gguf_jax.errors import GGUFJaxError
from gguf_jax.formats import FORMATS, FileType, GGMLType
from gguf_jax.quantization import recipe
from gguf_jax.quantization.patterns import compiled
from gguf_jax.quantization.recipe import Options, Step, TensorSpec, draft, plan, result_metadata
from gguf_jax.quantization.rules import recipes

GOLDEN = json.loads(gzip.decompress((Path(__file__).parents[1] / "data" / "recipes.json.gz").read_bytes()))
CASES = defaultdict(list)
for _name, _file_type, _arguments, _result in GOLDEN["dry"]:
    CASES[_name].append((_file_type, _arguments, _result))

METADATA = {"general.architecture": "llama", "llama.block_count": 2, "llama.attention.head_count": 4}

# std::regex takes these; Python does not, or could mean something else by them, and so they are refused.
REFUSED_PATTERNS = {r"\u0066fn", r"\cA", "a**b", "t++n", "(?:a){2}{2}", "[]a]", "[^]a]", "[[.a.]]", r"\0?"}


def tensors_of(model: str) -> list[TensorSpec]:
    """In the order of the file that the golden runs were made with."""
    tensors = GOLDEN["models"][model]["tensors"]
    return [TensorSpec(name, tuple(shape), GGMLType[type]) for name, (shape, type) in reversed(tensors.items())]


def options_of(arguments: str, file_type: str = "") -> tuple[Options, bool]:
    """Options as the command line says them, and whether there is an importance matrix."""
    options: dict[str, Any] = {"copy": file_type.upper() == "COPY"}
    words = iter(arguments.split())
    for word in words:
        match word.removeprefix("--").replace("-", "_"):
            case "tensor_type":
                options["tensor_types"] = (*options.get("tensor_types", ()), recipe.tensor_type(next(words)))
            case "output_tensor_type" | "token_embedding_type" as name:
                options[name] = recipe.ggml_type(next(words))
            case "prune_layers":
                options["prune_layers"] = recipe.layers(next(words))
            case "imatrix":
                assert next(words) == "IMATRIX"
            case "keep_split":
                pass
            case name:
                options[name] = True
    return Options(**options), "--imatrix" in arguments


@pytest.mark.parametrize("model", CASES)
def test_every_tensor_gets_the_type_of_llama_quantize(model):
    metadata, tensors, order = GOLDEN["models"][model]["metadata"], tensors_of(model), GOLDEN["models"][model]["order"]
    for file_type, arguments, expected in CASES[model]:

        def drafted(file_type: str = file_type, arguments: str = arguments) -> list[Step]:
            options, has_imatrix = options_of(arguments, file_type)
            type, keep_order = recipe.file_type(file_type), "--keep-split" in arguments
            return draft(type, metadata, tensors, has_imatrix=has_imatrix, options=options, keep_order=keep_order)

        case = f"{model} {file_type} {arguments}"
        pattern = arguments.removeprefix("--tensor-type ").rpartition("=")[0]
        if "error" in expected or pattern in REFUSED_PATTERNS:
            with pytest.raises(GGUFJaxError):
                drafted()
            continue
        steps = drafted()
        assert [step.name for step in steps] == expected.get("names", order), case
        assert "".join(chr(48 + step.type) for step in steps) == expected["types"], case
        if "--imatrix" not in arguments:
            assert any(step.needs_imatrix for step in steps) == expected.get("needs_imatrix", False), case


@pytest.mark.parametrize(("model", "file_type", "arguments", "expected"), GOLDEN["real"])
def test_a_file_is_that_of_llama_quantize(model, file_type, arguments, expected):
    metadata, tensors = GOLDEN["models"][model]["metadata"], tensors_of(model)

    def planned():
        options, has_imatrix = options_of(arguments, file_type)
        return plan(recipe.file_type(file_type), metadata, tensors, has_imatrix=has_imatrix, options=options)

    if "error" in expected:
        with pytest.raises(GGUFJaxError, match=r"^[^\n]+$"):
            planned()
        return
    steps = planned()
    assert [step.name for step in steps] == expected["names"]
    assert "".join(chr(48 + step.type) for step in steps) == expected["types"]

    options, has_imatrix = options_of(arguments, file_type)
    imatrix = {"imatrix_file": "IMATRIX", "imatrix_dataset": "a text", "imatrix_entries": 42, "imatrix_chunks": 7}
    changes = result_metadata(
        metadata, recipe.file_type(file_type), tensors, options=options, **(imatrix if has_imatrix else {})
    )
    assert {key: [str(value.type), value.value] for key, value in changes.items()} == expected["set"]
    assert [*(key for key in metadata if key not in changes), *changes] == expected["keys"]


def test_every_file_type_that_is_run_has_a_recipe_and_no_other():
    run = {recipe.file_type(name) for name, _, expected in CASES["llama"] if "error" not in expected}
    assert run == set(recipes().by_file_type)
    for name in recipe.file_type_names():
        assert recipe.file_type(name.lower()) in run
    for type in run:
        assert recipe.file_type(str(int(type))) == type


@pytest.mark.parametrize("name", ["Q4_K_X", "", "NVFP4", "1024", "4", "-1", "1_0", "²"])
def test_another_name_of_a_file_type_is_an_error_that_lists_them(name):
    with pytest.raises(GGUFJaxError, match=r"expected one of F32, .*Q4_K_M.* found"):
        recipe.file_type(name)


def test_a_file_type_without_a_recipe_is_an_error():
    with pytest.raises(GGUFJaxError, match=r"expected one of F32, .* found NVFP4"):
        plan(FileType.NVFP4, METADATA, [], has_imatrix=False)


def test_rules_name_tensors_that_exist():
    groups = set(recipes().groups)
    for entry in recipes().by_file_type.values():
        for rule in entry.rules:
            assert rule.groups <= groups, rule


def test_missing_importances_are_one_error_that_says_which_and_how():
    tensors = [TensorSpec(f"blk.{i}.attn_q.weight", (256, 256), GGMLType.F16) for i in range(9)]
    with pytest.raises(GGUFJaxError, match=r"blk\.0\.attn_q.*IQ1_S.* and 4 more cannot.*gguf-jax imatrix.*llama-imat"):
        plan(FileType.IQ1_S, METADATA, tensors, has_imatrix=False)
    assert all(step.needs_imatrix for step in plan(FileType.IQ1_S, METADATA, tensors, has_imatrix=True))


def test_what_is_quantized_stays_unless_it_is_allowed():
    tensors = [TensorSpec("blk.0.attn_q.weight", (256, 256), GGMLType.Q8_0)]
    with pytest.raises(GGUFJaxError, match=r"'blk\.0\.attn_q\.weight'.*Q8_0.*--allow-requantize"):
        plan(FileType.Q4_0, METADATA, tensors, has_imatrix=False)
    options = Options(allow_requantize=True)
    assert plan(FileType.Q4_0, METADATA, tensors, has_imatrix=False, options=options)[0].type == GGMLType.Q4_0
    assert plan(FileType.Q8_0, METADATA, tensors, has_imatrix=False)[0].type == GGMLType.Q8_0


@pytest.mark.parametrize(
    ("found", "asked_for", "message"),
    [
        (GGMLType.I32, GGMLType.Q8_0, "expected weights to quantize, found I32"),
        (GGMLType.F16, GGMLType.I8, "expected a type for weights, found I8"),
        (GGMLType.F16, GGMLType.Q8_K, "Q8_K"),
    ],
)
def test_a_conversion_that_nobody_can_do_is_an_error(found, asked_for, message):
    tensors = [TensorSpec("blk.0.attn_q.weight", (256, 256), found)]
    options = Options(tensor_types=((".", asked_for),))
    with pytest.raises(GGUFJaxError, match=message):
        plan(FileType.Q4_0, METADATA, tensors, has_imatrix=False, options=options)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("general.architecture", 7),
        ("general.architecture", None),
        ("llama.block_count", None),
        ("llama.block_count", "2"),
        ("llama.block_count", 0),
        ("llama.block_count", 513),
        ("llama.expert_count", -1),
        ("llama.expert_count", True),
        ("llama.attention.head_count", "many"),
        ("llama.attention.head_count_kv", [1]),
        ("llama.attention.head_count_kv", [1.5, 2]),
    ],
)
def test_metadata_that_cannot_be_is_an_error_of_one_line(key, value):
    metadata = {name: kept for name, kept in (METADATA | {key: value}).items() if kept is not None}
    with pytest.raises(GGUFJaxError, match=rf"^{key}: expected [^\n]*$"):
        plan(FileType.Q4_K_M, metadata, [], has_imatrix=False)


def test_names_of_any_bytes_are_sorted_by_them():
    names = ["blk.10.a", "blk.2.\udcff", "blk.2.é", "é", "blk.2.z", "\udcff", "z"]
    tensors = [TensorSpec(name, (4,), GGMLType.F32) for name in names]
    steps = plan(FileType.Q8_0, METADATA, tensors, has_imatrix=False)
    assert [step.source for step in steps] == ["z", "é", "\udcff", "blk.2.z", "blk.2.é", "blk.2.\udcff", "blk.10.a"]


def test_pruning_that_gives_two_tensors_one_name_is_an_error():
    tensors = [TensorSpec(f"enc.blk.{i}.ffn_up.weight", (256, 256), GGMLType.F16) for i in range(12)]
    with pytest.raises(GGUFJaxError, match=r"enc\.blk\.\d+.*expected one"):
        plan(FileType.Q8_0, METADATA, tensors, has_imatrix=False, options=Options(prune_layers=frozenset({5})))


def test_metadata_of_shards_goes_and_long_texts_are_cut_to_bytes():
    metadata = METADATA | {"split.no": 0, "split.count": 2, "split.tensors.count": 9}
    changes = result_metadata(metadata, FileType.Q8_0, [], imatrix_file="é" * 80, imatrix_entries=1)
    assert [key for key, value in changes.items() if value is None] == [
        "split.no",
        "split.count",
        "split.tensors.count",
    ]
    assert changes["quantize.imatrix.file"].value.encode("utf-8", "surrogateescape") == ("é" * 80).encode()[:127]
    assert "quantize.imatrix.dataset" not in changes
    assert "quantize.imatrix.chunks_count" not in changes


@pytest.mark.parametrize(
    ("types", "expected"),
    [
        ([], FileType.ALL_F32),
        (["Q4_K", "F32", "Q4_K"], FileType.Q4_K_M),
        (["F16", "Q3_K", "Q3_K", "F16"], FileType.Q3_K_M),
        (["MXFP4", "MXFP4", "F16"], FileType.ALL_F32),
    ],
)
def test_a_copy_keeps_or_guesses_the_file_type(types, expected):
    tensors = [TensorSpec(f"blk.{i}.a", (256, 256), GGMLType[name]) for i, name in enumerate(types)]
    options = Options(copy=True)
    changes = result_metadata(METADATA, FileType.ALL_F32, tensors, options=options)
    assert changes["general.file_type"].value == expected | FileType.GUESSED
    metadata = METADATA | {"general.file_type": 12}
    assert result_metadata(metadata, FileType.ALL_F32, tensors, options=options)["general.file_type"].value == 12
    steps = plan(FileType.ALL_F32, METADATA, tensors, has_imatrix=False, options=options)
    assert [step.type for step in steps] == [step.found for step in steps] == [spec.type for spec in tensors]


def test_files_of_tensor_types_are_lists_between_spaces():
    assert recipe.tensor_types(" attn_q=q8_0\n\n.*down=IQ4_xs\tx=f16 ") == (
        ("attn_q", GGMLType.Q8_0),
        (".*down", GGMLType.IQ4_XS),
        ("x", GGMLType.F16),
    )
    assert recipe.tensor_types("") == ()


@pytest.mark.parametrize("text", ["attn_q", "=q8_0", "attn_q=", "attn_q=q9", "attn_q=q8_1", "a=q4_0=q8_0", "(=q8_0"])
def test_a_malformed_tensor_type_is_an_error(text):
    with pytest.raises(GGUFJaxError, match=r"^[^\n]*(expected|pattern)"):
        recipe.tensor_type(text)


@pytest.mark.parametrize("text", ["", "1,", "-1", "x", "1.5", "1;2", "²"])
def test_malformed_layers_are_an_error(text):
    with pytest.raises(GGUFJaxError, match="layers: expected"):
        recipe.layers(text)
    assert recipe.layers("3, 1,3") == {1, 3}


@pytest.mark.parametrize("pattern", ["(" * 5000, "a" * 5000, "[" * 50, "\udcff+", "\x00", "a{1,4294967296}", "é|[é]"])
def test_a_hostile_pattern_compiles_or_is_an_error_of_one_line(pattern):
    try:
        regex = compiled(pattern)
    except GGUFJaxError as error:
        message = str(error)
    else:
        message = str(regex.search(b"blk.0.attn_q.weight"))
    assert "\n" not in message


def test_a_plan_does_not_depend_on_the_order_of_the_input():
    metadata, tensors = GOLDEN["models"]["mixtral-parts"]["metadata"], tensors_of("mixtral-parts")
    forward, backward = (
        plan(FileType.Q3_K_M, metadata, order, has_imatrix=False) for order in (tensors, [*reversed(tensors)])
    )
    assert forward == backward
    assert all(step.reason for step in forward)


@pytest.mark.parametrize("type", [type for type, form in FORMATS.items() if form.is_quantized])
def test_pure_is_the_type_itself_or_what_fits(type):
    """Every type that can be asked for either fits, has a smaller one in its place, or is refused."""
    spec = TensorSpec("blk.0.attn_q.weight", (64, 96), GGMLType.F16)
    options = Options(tensor_types=(("attn_q", type),))
    for columns in (256, 96, 100):
        tensors = [replace(spec, shape=(64, columns))]
        try:
            (step,) = plan(FileType.Q4_0, METADATA, tensors, has_imatrix=True, options=options)
        except GGUFJaxError:
            assert columns % FORMATS[type].block_size
            assert type in (GGMLType.Q1_0, GGMLType.NVFP4)
            continue
        assert columns % FORMATS[step.type].block_size == 0
        assert step.type == type or columns % FORMATS[type].block_size


def test_imports_without_jax():
    code = "import sys, gguf_jax.quantization.recipe; sys.exit(' '.join({'jax', 'flax'} & set(sys.modules)) or 0)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr == ""
