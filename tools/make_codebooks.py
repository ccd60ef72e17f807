"""Write gguf_jax/formats/codebooks.npz from the tables of the PyPI package `gguf`: python tools/make_codebooks.py [OUT]

The grids of the IQ types were found by a search over real weights and follow no formula, so they are data. The file is
the same, byte for byte, each time: members are stored uncompressed under a fixed date.
"""

import io
import sys
import zipfile
from pathlib import Path

import gguf.quants
import numpy as np

OUT = Path(__file__).resolve().parents[1] / "gguf_jax" / "formats" / "codebooks.npz"
GRIDS = {
    "iq1_s": gguf.quants.IQ1_S,
    "iq2_xxs": gguf.quants.IQ2_XXS,
    "iq2_xs": gguf.quants.IQ2_XS,
    "iq2_s": gguf.quants.IQ2_S,
    "iq3_xxs": gguf.quants.IQ3_XXS,
    "iq3_s": gguf.quants.IQ3_S,
}


def tables() -> dict[str, np.ndarray]:
    """Every codebook as int8: the grids `[entries, weights]`, the levels of IQ4_NL `[16]`."""
    arrays = {}
    for name, quant in GRIDS.items():
        quant.init_grid()
        assert quant.grid is not None
        arrays[name] = quant.grid.reshape(quant.grid_shape)
    arrays["iq4_nl"] = np.asarray(gguf.quants.IQ4_NL.kvalues)
    for name, array in arrays.items():
        if not np.array_equal(array, array.astype(np.int8)):
            raise SystemExit(f"error: {name}: values do not fit int8")
    return {name: array.astype(np.int8) for name, array in arrays.items()}


def main(out: Path) -> None:
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as file:
        for name, array in tables().items():
            member = io.BytesIO()
            np.lib.format.write_array(member, array, version=(1, 0), allow_pickle=False)
            file.writestr(zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0)), member.getvalue())


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else OUT)
