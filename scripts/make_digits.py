"""Draws the digits that the package bundles from the original MNIST files, and writes them in the same format.

    python scripts/make_digits.py FOLDER_WITH_THE_FOUR_IDX_GZ_FILES

1,000 training digits per class from the training file and 200 held-out digits per class from the test file, in a
seeded random order. Running it again draws the same digits.
"""
import gzip
import struct
import sys
from pathlib import Path

import numpy as np

OUT = Path(__file__).parent.parent / "ddpm_course" / "assets" / "digits"
SEED = 0
SPLITS = {"train": ("train", 1000), "test": ("t10k", 200)}  # our name: (MNIST's name, digits per class)


def read_idx(path: Path) -> np.ndarray:
    raw = gzip.decompress(path.read_bytes())
    ndim = raw[3]
    shape = struct.unpack(f">{ndim}I", raw[4 : 4 + 4 * ndim])
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * ndim).reshape(shape)


def write_idx(path: Path, array: np.ndarray) -> None:
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes(), compresslevel=9, mtime=0))


def main(source: Path) -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    for split, (name, per_class) in SPLITS.items():
        images, labels = (read_idx(source / f"{name}-{kind}-ubyte.gz") for kind in ("images-idx3", "labels-idx1"))
        rng = np.random.default_rng(SEED)
        keep = np.concatenate([rng.choice(np.flatnonzero(labels == d), per_class, replace=False) for d in range(10)])
        keep = rng.permutation(keep)
        write_idx(OUT / f"{split}-images-idx3-ubyte.gz", images[keep])
        write_idx(OUT / f"{split}-labels-idx1-ubyte.gz", labels[keep])
        print(f"{split}: {len(keep)} digits")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
