"""How soon does each slider of the course answer, in JupyterLab and a real browser?

    python benchmarks/sliders.py --python ../reader/bin/python    # fifteen minutes of a quiet machine

Runs scripts/read_in_browser.py, whose needs it has, on the notebooks that have a slider, in the environment of
--python. Each handle is moved by one step up to --moves times, from its start to the right; what is counted is the time
from the key to the first other pixel. Kept for each slider: the median of its answers, in milliseconds.
"""
import argparse
import datetime
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from machine import machine

ROOT = Path(__file__).parent.parent


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable, help="the reader's Python (the one that runs this)")
    parser.add_argument("--moves", type=int, default=7)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/sliders.json")
    args = parser.parse_args()
    notebooks = [path for path in sorted((ROOT / "nbs").rglob("[!_]*.ipynb"))
                 if "with_slider" in path.read_text(encoding="utf-8")]
    with tempfile.TemporaryDirectory() as folder:
        answers = Path(folder) / "answers.json"
        done = subprocess.run([sys.executable, ROOT / "scripts/read_in_browser.py", "--python", args.python,
                               "--moves", str(args.moves), "--answers", answers, *notebooks])
        if done.returncode:
            return done.returncode
        rows = [{"chapter": chapter, "slider": name, "milliseconds": round(statistics.median(times), 1),
                 "moves": len(times)} for chapter, sliders in json.loads(answers.read_text()).items()
                for name, times in sliders.items()]
    args.out.write_text(json.dumps({"rows": rows, "date": datetime.date.today().isoformat(), **machine("cpu")},
                                   indent=1) + "\n")
    slowest = max(rows, key=lambda row: row["milliseconds"])
    print(f"{len(rows)} sliders, median {statistics.median(row['milliseconds'] for row in rows):.0f} ms, slowest "
          f"{slowest['milliseconds']:.0f} ms ({slowest['chapter']}, {slowest['slider']})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
