"""Chooses the emoji that the package bundles from Noto Emoji at 32 x 32, and writes one sheet of pictures a split.

    python scripts/make_emoji.py FILE.npz

The file holds `images` uint8 (N, 32, 32, 3), `labels` (N,) into `categories`, and `names` (N,): Google's Noto Emoji, as
`emoji-datasource-google` 16.0.0 packages them, on white and reduced to 32 x 32. Left out are what the rules below name,
and every picture that looks like one before it. A seeded tenth of each category is held out. Running it again, with the
same version of Pillow, writes the same bytes.
"""
import hashlib
import io
import json
import re
import sys
from pathlib import Path

import numpy as np
from PIL import Image

OUT = Path(__file__).parent.parent / "ddpm_course" / "assets" / "emoji"
SEED = 0
SIDE, COLUMNS = 32, 40
LIKE = 10  # grey levels (root mean square): closer pictures, also when one is mirrored, count as the same
STEP = 5  # pixels are rounded to its multiples, 0 to 255: at most 2 levels away, and the lossless sheets shrink by 40%
TEST = 0.1  # share of each category that is held out

LEAVE_OUT = {  # by category: whatever such a pattern is found in
    "Component": [r""],  # patches of skin colour
    "Symbols": [
        r"KEYCAP|^HASH KEY|^INPUT SYMBOL|SQUARED (LATIN|KATAKANA|CJK|[A-Z]{2,4}\b)|CIRCLED (LATIN|IDEOGRAPH)",  # tiles
        r"ARROW ABOVE$|(COPYRIGHT|REGISTERED|TRADE MARK) SIGN|TELLER MACHINE|WATER CLOSET",  # that are only text
        r"(SMALL|MEDIUM).* SQUARE",  # the same square in four sizes
    ],
    "Travel & Places": [r"^CLOCK FACE|MOON SYMBOL$"],  # 24 hours, 8 phases
    "People & Body": [
        r"^FAMILY",  # the same silhouettes in 26 combinations
        r"FACING RIGHT$",  # mirrored
        r"\b(WO)?M[AE]N\b",  # the man and the woman of figures that are there as a person, but for KEEP
        r"MIDDLE FINGER",  # not for every classroom
    ],
    "Flags": [  # the flag of another country, which is there under its own name
        r"^(Bouvet|Ceuta|Clipperton|Diego Garcia|Heard|Sark|St\. Martin|Svalbard|U\.S\. Outlying)\b",
    ],
}
KEEP = {  # no such person is there
    "MAN", "WOMAN", "OLDER MAN", "OLDER WOMAN", "MAN DANCING", "MAN IN TUXEDO", "MAN WITH GUA PI MAO",
    "MAN WITH TURBAN", "PREGNANT WOMAN", "WOMAN WITH BUNNY EARS",
}


def by_name(names: list[str], categories: list[str]) -> list[int]:
    "Which emoji the rules leave over, each name once."
    kept = {}
    for i, (name, category) in enumerate(zip(names, categories, strict=True)):
        if name in KEEP or not any(re.search(pattern, name) for pattern in LEAVE_OUT.get(category, [])):
            kept.setdefault(name, i)
    return list(kept.values())


def by_look(images: np.ndarray) -> list[int]:
    "Which pictures are like none before them, mirrored or not."
    flat, mirrored = (x.reshape(len(x), -1).astype(np.float32) for x in (images, images[:, :, ::-1]))
    kept = []
    for i in range(len(flat)):
        before = flat[kept]
        distances = [np.sqrt(np.square(before - x[i]).mean(1)) for x in (flat, mirrored)]
        if not kept or np.min(distances) >= LIKE:
            kept.append(i)
    return kept


def sheet(images: np.ndarray) -> bytes:
    "One lossless WebP with `COLUMNS` pictures a row, white where there are none."
    rows = -(-len(images) // COLUMNS)
    tiles = np.full((rows * COLUMNS, SIDE, SIDE, 3), 255, np.uint8)
    tiles[: len(images)] = images
    pixels = tiles.reshape(rows, COLUMNS, SIDE, SIDE, 3).swapaxes(1, 2).reshape(rows * SIDE, COLUMNS * SIDE, 3)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "WEBP", lossless=True, quality=100, method=6)
    return file.getvalue()


def main(source: Path) -> None:
    data = np.load(source)
    images, labels, names = data["images"], data["labels"], data["names"].tolist()
    kept = np.array(by_name(names, data["categories"][labels].tolist()))
    kept = kept[by_look(images[kept])]
    images = ((images.astype(int) + STEP // 2) // STEP * STEP).astype(np.uint8)
    classes = [c for i, c in enumerate(data["categories"].tolist()) if (labels[kept] == i).any()]
    label = {i: classes.index(data["categories"][i]) for i in np.unique(labels[kept])}

    rng = np.random.default_rng(SEED)
    members = [rng.permutation(kept[labels[kept] == i]) for i in label]
    held_out = [round(TEST * len(m)) for m in members]
    splits = {"test": [m[:n] for m, n in zip(members, held_out, strict=True)],
              "train": [m[n:] for m, n in zip(members, held_out, strict=True)]}
    OUT.mkdir(parents=True, exist_ok=True)
    about = {"classes": classes}
    for split, parts in splits.items():
        index = rng.permutation(np.concatenate(parts))
        about[split] = {"labels": [label[i] for i in labels[index]], "names": [names[i] for i in index]}
        (OUT / f"{split}.webp").write_bytes(sheet(images[index]))
        print(f"{split}: {len(index)} emoji,", {c: len(p) for c, p in zip(classes, parts, strict=True)})
    (OUT / "emoji.json").write_text(json.dumps(about, ensure_ascii=False) + "\n", encoding="utf-8")
    for file in sorted(OUT.glob("*.[jw]*")):
        print(f"{file.name}: {file.stat().st_size:,} bytes, SHA-256 {hashlib.sha256(file.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
