"""How fast is the UNet? Ours, diffusers' `UNet2DModel` and lucidrains' `Unet`, taking turns in one process.

    python benchmarks/unet.py                                    # about ten minutes on two quiet CPU cores
    python benchmarks/unet.py --rounds 1 --profile 0 --peak 0    # a short try
    python benchmarks/unet.py --device cuda --batch-size 128
    python benchmarks/unet.py --compile --peak 0 --profile 0 --out benchmarks/results/unet_compiled.json

Ours and diffusers' have the CIFAR-10 configuration of Ho et al. 2020 (35.7 million parameters) and the same weights;
before anything is timed, their answers are compared. lucidrains' has as many parameters, but another design and about
a third of the arithmetic. It is left out where `denoising-diffusion-pytorch` is not installed.

In each round every contestant makes its forward passes and training steps (loss, gradient, AdamW), one after the other,
so that a busy moment of the machine hits all of them. Reported are medians over the rounds, and for the comparison the
median of the ratios within a round. "As shipped" is what a user gets: ours in channels_last,
as it is trained and loaded, diffusers' as it is built. The ceiling is a large float32 matrix product in the same round.
Peak memory is measured first, in a process of its own for each contestant and mode.

Results go to benchmarks/results/unet.json (or --out), with machine and date.
"""
import argparse
import contextlib
import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from machine import machine
from torch.utils.flop_counter import FlopCounterMode

from ddpm_course.formats.diffusers import unet_to_diffusers
from ddpm_course.forward import NoiseSchedule, linear_beta_schedule
from ddpm_course.hub import to_diffusers
from ddpm_course.lib.storage import tensors_from_bytes
from ddpm_course.objective import Denoiser
from ddpm_course.unet import UNet, UNetConfig

ROOT = Path(__file__).parent.parent
CONTESTANTS = {  # name: (library, memory format)
    "ours, channels_last": ("ours", torch.channels_last),
    "ours, contiguous": ("ours", torch.contiguous_format),
    "diffusers, contiguous": ("diffusers", torch.contiguous_format),
    "diffusers, channels_last": ("diffusers", torch.channels_last),
    "lucidrains": ("lucidrains", torch.contiguous_format),
}
COMPARED = {  # what is divided by what
    "as shipped": ("ours, channels_last", "diffusers, contiguous"),
    "both contiguous": ("ours, contiguous", "diffusers, contiguous"),
    "both channels_last": ("ours, channels_last", "diffusers, channels_last"),
}
MODES = ("train", "forward")


def library(name: str) -> bool:
    "Import the library a contestant needs. False where it is not there."
    modules = {"ours": "ddpm_course", "diffusers": "diffusers", "lucidrains": "denoising_diffusion_pytorch"}
    with contextlib.suppress(ImportError):
        __import__(modules[name])
        return True
    return False


def build(name: str, args, same_weights: bool = True) -> torch.nn.Module:
    "A contestant's network. Ours and diffusers' get the same weights, random everywhere, where that is asked for."
    which, memory_format = CONTESTANTS[name]
    torch.manual_seed(0)
    if which == "lucidrains":
        from denoising_diffusion_pytorch import Unet

        model = Unet(64, dim_mults=(1, 2, 4, 8), dropout=0.1)
    elif which == "ours" or same_weights:
        model = UNet(UNetConfig())
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.02 * torch.randn_like(p))
    if which == "diffusers":
        from diffusers import UNet2DModel

        with torch.device("meta"):
            config = UNet(UNetConfig())
        schedule = NoiseSchedule(linear_beta_schedule())
        theirs = UNet2DModel.from_config(unet_to_diffusers(Denoiser(config, schedule, shape=(3, 32, 32))))
        if same_weights:
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
                to_diffusers(Denoiser(model, schedule, shape=(3, 32, 32)), Path(folder) / "model")
                file = Path(folder) / "model" / "unet" / "diffusion_pytorch_model.safetensors"
                theirs.load_state_dict(tensors_from_bytes(file.read_bytes(), str(file)))
        model = theirs
    return model.to(args.device, memory_format=memory_format)


class Contestant:
    "A network with its optimizer, and what is measured of it."
    def __init__(self, name: str, args, same_weights: bool = True):
        self.name, self.device = name, args.device
        self.model = build(name, args, same_weights)
        if args.compile:
            self.model.compile()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), 1e-5, fused=True)
        g = torch.Generator().manual_seed(1)
        x = torch.randn(args.batch_size, 3, 32, 32, generator=g).to(args.device)
        self.x = x.to(memory_format=CONTESTANTS[name][1])
        self.t = torch.randint(1000, (args.batch_size,), generator=g).to(args.device)

    def answer(self) -> torch.Tensor:
        answer = self.model(self.x, self.t)
        return answer if torch.is_tensor(answer) else answer.sample

    def forward(self) -> None:
        self.model.eval()
        with torch.inference_mode():
            self.answer()

    def train(self) -> None:
        self.model.train()
        self.optimizer.zero_grad()
        self.answer().square().mean().backward()
        self.optimizer.step()

    def images_per_second(self, mode: str, repeats: int) -> float:
        return repeats * len(self.x) / seconds(lambda: [getattr(self, mode)() for _ in range(repeats)], self.device)

    def flops(self, mode: str) -> float:
        "Floating-point operations an image (a multiplication and an addition are two)."
        with FlopCounterMode(display=False) as counter:
            getattr(self, mode)()
        return counter.get_total_flops() / len(self.x)

    def where_the_time_goes(self, mode: str) -> dict[str, float]:
        "Share of the time inside each kind of operation, the largest ten."
        on_gpu = self.device.startswith("cuda")
        activities = [torch.profiler.ProfilerActivity.CUDA if on_gpu else torch.profiler.ProfilerActivity.CPU]
        with torch.profiler.profile(activities=activities) as profile:
            getattr(self, mode)()
        spent = {e.key: e.self_device_time_total if on_gpu else e.self_cpu_time_total for e in profile.key_averages()}
        total = sum(spent.values())
        return {k: round(v / total, 4) for k, v in sorted(spent.items(), key=lambda item: -item[1])[:10]}


def seconds(work, device: str) -> float:
    wait = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    wait()
    start = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - start


def matmul_flops(device: str, n: int = 2048) -> float:
    "FLOP/s of a large float32 matrix product."
    a = torch.ones(n, n, device=device)
    return 2 * n**3 / seconds(lambda: a @ a, device)


def peak_memory(args, name: str, mode: str) -> float | None:
    "Peak memory in MB of two batches in `mode`, above what the imports alone take. None where it cannot be known."
    if sys.platform == "win32" and not args.device.startswith("cuda"):
        return None
    options = ["--batch-size", str(args.batch_size), "--device", args.device, "--threads", str(args.threads)]
    run = subprocess.run([sys.executable, __file__, "--memory", name, mode, *options], capture_output=True, text=True)
    if run.returncode:
        raise SystemExit(run.stderr)
    return float(run.stdout.split()[-1])


def peak_of_this_process() -> float:
    "Largest resident memory so far, in MB."
    status = Path("/proc/self/status")
    if status.exists():  # on Linux, getrusage would also count the process that started this one
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1e3
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def measure_memory(args) -> None:
    name, mode = args.memory
    for which in ("ours", "diffusers", "lucidrains"):  # the same imports for all
        library(which)
    if args.device.startswith("cuda"):
        used = lambda: torch.cuda.max_memory_allocated() / 1e6
    else:
        used = peak_of_this_process
    before = used()
    contestant = Contestant(name, args, same_weights=False)
    for _ in range(2):
        getattr(contestant, mode)()
    print(f"{used() - before:.0f}")


def rounds(contestants: list[Contestant], args) -> tuple[list[float], dict]:
    "FLOP/s of the matrix product and images/s of every contestant and mode, one entry a round."
    ceiling, speed = [], {(c.name, mode): [] for c in contestants for mode in MODES}
    for number in range(args.rounds + 1):  # the first one warms up and is not counted
        ceiling.append(max(matmul_flops(args.device) for _ in range(3)))
        for mode in MODES:
            for c in contestants[:: 1 if number % 2 else -1]:
                speed[c.name, mode].append(c.images_per_second(mode, args.repeats))
        latest = [" / ".join(f"{speed[c.name, mode][-1]:.2f}" for mode in MODES) for c in contestants]
        print(f"round {number} of {args.rounds}, images/s: "
              + "; ".join(f"{c.name} {numbers}" for c, numbers in zip(contestants, latest)), flush=True)
    return ceiling[1:], {key: values[1:] for key, values in speed.items()}


def report(contestants: list[Contestant], memory: dict, args) -> dict:
    ceiling, speed = rounds(contestants, args)
    median, rows = statistics.median, []
    for c in contestants:
        row = {"name": c.name, "parameters": sum(p.numel() for p in c.model.parameters())}
        for mode in MODES:
            values, flops = speed[c.name, mode], c.flops(mode)
            row[mode] = {
                "images_per_second": round(median(values), 3), "rounds": [round(v, 3) for v in values],
                "gflop_per_image": round(flops / 1e9, 2),
                "share_of_matmul": round(median(v * flops / top for v, top in zip(values, ceiling)), 3),
                "peak_memory_mb": memory.get((c.name, mode))}
            if args.profile:
                row[mode]["where"] = c.where_the_time_goes(mode)
        rows.append(row)
    ratios = {}
    for what, (a, b) in COMPARED.items():
        for mode in MODES:
            if (a, mode) in speed and (b, mode) in speed:
                each = [x / y for x, y in zip(speed[a, mode], speed[b, mode])]
                ratios.setdefault(what, {})[mode] = round(median(each), 3)
    settings = {"device": args.device, "batch_size": args.batch_size, "rounds": args.rounds, "repeats": args.repeats,
                "compile": args.compile}
    return {"date": args.date, "machine": machine(args.device), "settings": settings,
            "matmul_gflops": round(median(ceiling) / 1e9, 1), "contestants": rows, "ours_over_diffusers": ratios}


def table(result: dict) -> str:
    "The result as Markdown."
    m, s = result["machine"], result["settings"]
    lines = ["| | training, images/s | forward, images/s | share of a matrix product | peak memory, MB |",
             "|---|---|---|---|---|"]
    for row in result["contestants"]:
        cells = [f"{row[mode]['images_per_second']:.2f}" for mode in MODES]
        cells += [", ".join(f"{row[mode]['share_of_matmul']:.0%}" for mode in MODES)]
        cells += [", ".join(f"{row[mode]['peak_memory_mb'] or 0:,.0f}" for mode in MODES)]
        lines.append(f"| {row['name']} | {' | '.join(cells)} |")
    for what, ratio in result["ours_over_diffusers"].items():
        lines.append(f"| ours / diffusers, {what} | {ratio['train']:.2f} | {ratio['forward']:.2f} | | |")
    where = m["gpu"] or f"{m['cpu']}, {m['threads']} threads"
    lines.append(f"\n{where}, torch {m['versions']['torch']}, {result['date']}; batches of {s['batch_size']} images of "
                 f"32x32, medians of {s['rounds']} rounds; a float32 matrix product reaches "
                 f"{result['matmul_gflops']:.0f} GFLOP/s.")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=1, help="batches a contestant makes in a row")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--date", default=datetime.date.today().isoformat(), help="as YYYY-MM-DD; default: today")
    parser.add_argument("--compile", action="store_true", help="torch.compile for every contestant")
    parser.add_argument("--profile", type=int, default=1, help="0: do not look where the time goes")
    parser.add_argument("--peak", type=int, default=1, help="0: do not measure memory")
    parser.add_argument("--only", nargs="*", default=list(CONTESTANTS), help="names of contestants")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "unet.json")
    parser.add_argument("--memory", nargs=2, help=argparse.SUPPRESS)  # what the processes are started with
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.memory:
        return measure_memory(args)

    names = [name for name in args.only if library(CONTESTANTS[name][0])]
    print("taking part:", "; ".join(names), flush=True)
    memory = {(name, mode): peak_memory(args, name, mode) for name in names for mode in MODES if args.peak}
    contestants = [Contestant(name, args) for name in names]
    same = [c for c in contestants if c.name != "lucidrains"]
    with torch.inference_mode():
        answers = [c.model.eval() and c.answer() for c in same]
    apart = max((a - answers[0]).abs().max().item() for a in answers)
    print(f"largest difference of their answers: {apart:.1e} (lucidrains' is another network)")
    if apart > (1e-4 if args.device == "cpu" else 1e-2):  # a GPU may multiply in TF32
        raise SystemExit("the networks do not compute the same, so their speed cannot be compared")
    result = report(contestants, memory, args)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(table(result), f"\nwritten to {args.out}")


if __name__ == "__main__":
    main()
