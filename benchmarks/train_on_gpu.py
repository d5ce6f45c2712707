"""Trains digits at full size on a GPU, and measures what chapter 16 tells about it.

    python benchmarks/train_on_gpu.py --small               the same code in a small size, about a minute on a CPU
    python benchmarks/train_on_gpu.py                       on a GPU, about ten minutes
    python benchmarks/train_on_gpu.py --parts checks        one part alone; what the others have found is kept

The parts, the most precious first. Each writes what it has found as soon as it has found it; one that fails says why,
and the next begins.

    run       images, a network, training, with losses and pictures on the way; the model goes to FOLDER/model
    quality   10,000 samples and the judge of chapter 12, beside the bundled model and real digits; four samplers
    unet      the paper's network beside diffusers' (benchmarks/unet.py)
    switches  what each switch is worth: images per second and memory, and both for growing batches
    loops     our training loop beside others' (benchmarks/train.py --switches)
    samplers  our samplers beside others' (benchmarks/samplers.py)
    checks    what only a GPU shows: 16 bits stay finite, random states are kept, resume, a card that is really full

Everything goes to benchmarks/results/train_on_gpu.json (or --out), the pictures to a PNG beside it; --small has files
of its own, train_on_gpu_small. MNIST is downloaded into data/, or taken from --mnist, a folder with its four files
*-ubyte.gz; without either the bundled 10,000 digits take its place.
"""
import argparse
import copy
import dataclasses
import datetime
import functools
import gc
import json
import math
import os
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic matrix products, where they are asked for
os.environ["TQDM_DISABLE"] = "1"

import torch  # noqa: E402
from machine import machine  # noqa: E402
from PIL import Image  # noqa: E402

from ddpm_course.app.checkpoints import resume_from, save_checkpoint  # noqa: E402
from ddpm_course.app.config import TrainConfig  # noqa: E402
from ddpm_course.app.fitting import choose, images_for, look_around, make_it_fit, one_step  # noqa: E402
from ddpm_course.app.processes import pick_device  # noqa: E402
from ddpm_course.app.run import new_state  # noqa: E402
from ddpm_course.data import ImageDataset, to_uint8  # noqa: E402
from ddpm_course.ddim import ddim_sample  # noqa: E402
from ddpm_course.ddpm import ddpm_sample  # noqa: E402
from ddpm_course.evaluation import DigitFeatures, all_scores  # noqa: E402
from ddpm_course.guidance import with_guidance  # noqa: E402
from ddpm_course.hub import from_diffusers, load_pretrained, save_pretrained, to_diffusers  # noqa: E402
from ddpm_course.lib.images import fingerprint, read_idx  # noqa: E402
from ddpm_course.lib.storage import sha256  # noqa: E402
from ddpm_course.likelihood import bits_per_dim  # noqa: E402
from ddpm_course.solvers import dpmpp_sample  # noqa: E402
from ddpm_course.training import TrainState, train_step, training_steps, validation_loss  # noqa: E402

HERE = Path(__file__).parent
MOMENTS = 10, 30, 120, 300, 1000, 3000, 10_000  # of the pictures, in updates
CHUNK = 2000  # images that are drawn at once
WARM = ("cuda", "mps")  # devices that choose and compile kernels at the first call with a shape


def say(*words, sep: str = " ") -> None:
    print(*words, sep=sep, flush=True)


def wait() -> None:
    "A GPU works behind Python's back: before a clock is read, it has to be done."
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def free_memory() -> None:
    torch.compiler.reset()  # forget what was compiled and recorded
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_memory() -> float | None:
    "The largest number of GiB of the GPU that tensors took since `free_memory`; None on a CPU."
    return torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else None


class Report:
    "What was found so far, in a JSON file, and its pictures in rows of ten in a PNG beside it."
    def __init__(self, file: Path, device: torch.device, small: bool):
        self.file = file
        self.found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        driver = subprocess.run(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
                                capture_output=True, text=True).stdout.strip() if device.type == "cuda" else None
        self.add({"date": datetime.date.today().isoformat(), "small": small, "device": look_around(device),
                  "driver": driver, "machine": machine(device.type)})

    def add(self, found: dict) -> None:
        self.found |= found
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(json.dumps(self.found, indent=1) + "\n", encoding="utf-8")

    def add_row(self, name: str, images: torch.Tensor) -> None:
        "Ten digits (10, 1, 28, 28) in [-1, 1] as one row of the PNG, named in `rows`; a row of that name is replaced."
        png, rows = self.file.with_suffix(".png"), self.found.get("rows", [])
        row = to_uint8(images.cpu())[:, 0].permute(1, 0, 2).reshape(28, 280)
        if rows:
            pixels = torch.frombuffer(bytearray(Image.open(png).tobytes()), dtype=torch.uint8).view(-1, 28, 280)
            pixels = torch.stack([p for p, old in zip(pixels, rows) if old != name] + [row])
        else:
            pixels = row[None]
        Image.fromarray(pixels.reshape(-1, 280).numpy()).save(png, optimize=True)
        self.add({"rows": [old for old in rows if old != name] + [name]})


def mnist_from(folder: Path) -> tuple[ImageDataset, ImageDataset]:
    "MNIST from its four files: 60,000 digits to train on and 10,000 held out."
    parts = []
    for name in ("train", "t10k"):
        images, labels = (read_idx(folder / f"{name}-{kind}-ubyte.gz") for kind in ("images-idx3", "labels-idx1"))
        parts.append(ImageDataset(images[:, None], labels.long(), [str(d) for d in range(10)]))
    return parts[0], parts[1]


def prepared(args) -> tuple[TrainConfig, ImageDataset, ImageDataset]:
    "The configuration that suits the device, and the images, on the device."
    fields, why = choose(look_around(args.device))
    config = TrainConfig(out=str(args.folder / "run"), device=args.device.type, sample_steps=20, **fields)
    say(*why, sep="\n- ")
    if args.mnist and not args.small:
        data, held_out = mnist_from(args.mnist)
    else:
        data, held_out, config = images_for(config)
    return config, data.to(args.device), held_out.to(args.device)


def run(args, report: Report) -> None:
    "The run itself. The time that losses of held-out digits and pictures take is not counted."
    config, data, held_out = prepared(args)
    started = time.perf_counter()
    config = make_it_fit(config, functools.partial(one_step, data=data))
    tried = time.perf_counter() - started
    free_memory()
    started, looking, losses, log = time.perf_counter(), 0.0, [], []
    state = new_state(config, data.classes)
    for step, loss in training_steps(state, data, config):
        losses.append(loss)
        look = step in MOMENTS or step == config.steps
        if look or step % config.log_every == 0:
            log.append({"step": step, "loss": torch.stack(losses).mean().item()})
            losses = []
        if look:
            wait()
            looked = time.perf_counter()
            log[-1]["validation"] = validation_loss(state.averaged, held_out, config)
            report.add_row(f"{step:,} updates", ddim_sample(state.averaged, 10, steps=20, y=torch.arange(10), seed=0,
                                                            progress=False))
            say(log[-1])
            looking += time.perf_counter() - looked
    wait()
    seconds = time.perf_counter() - started - looking
    report.add({"run": {
        "seconds": seconds, "seconds to try one step": tried, "log": log, "images": len(data),
        "config": dataclasses.asdict(config) | {"out": "run"}, "parameters": sum(p.numel() for p in state.parameters),
        "images_per_second": config.steps * config.batch_size / seconds, "memory_gib": peak_memory(),
        "images_fingerprint": fingerprint(data.to("cpu"))}})
    say(f"{config.steps} updates in {seconds:.0f} s")
    report.add({"models": saved(state.averaged, args.folder, {
        "training": f"{config.steps:,} updates of {config.batch_size} digits of MNIST, seed {config.seed}"})})


def saved(denoiser, folder: Path, facts: dict) -> dict:
    "The model as a folder, as one in half precision, and for diffusers; how large they are and how far samples differ."
    save_pretrained(denoiser, folder / "model", facts=facts)
    save_pretrained(denoiser, folder / "model_half", facts=facts, half=True)
    to_diffusers(denoiser, folder / "for_diffusers", facts=facts)
    x, y = torch.randn(4, *denoiser.shape, generator=torch.Generator().manual_seed(1)), torch.arange(4)
    whole, half, theirs = (ddim_sample(load(folder / name), x, steps=5, y=y, progress=False) for load, name in (
        (load_pretrained, "model"), (load_pretrained, "model_half"), (from_diffusers, "for_diffusers")))
    return {"sha256": sha256((folder / "model" / "model.safetensors").read_bytes()),
            "MB in half precision": sum(p.stat().st_size for p in (folder / "model_half").iterdir()) / 1e6,
            "samples differ in half precision by": (half - whole).abs().mean().item(),
            "samples differ through diffusers' format by": (theirs - whole).abs().max().item()}


def verdict(judge: DigitFeatures, images: torch.Tensor, asked: torch.Tensor | None = None) -> dict:
    """
    What the judge says of digits in [-1, 1]: of how many it is sure, how often it sees what was asked for, each class.

    "error" is the standard error of "sure", with two images of each kind added, so that a share of 1 has one too.
    "scatter" is the sum over the ten classes of (n_k - n/10)^2 / (n/10): in the mean 9, with a standard deviation of
    about 4, where each image falls into a class by chance.
    """
    confidence, seen = judge.confidence(images)
    n, counts, k = len(images), seen.bincount(minlength=10), int((confidence >= 0.9).sum())
    guess = (k + 2) / (n + 4)
    return {"n": n, "sure": k / n, "error": math.sqrt(guess * (1 - guess) / n), "classes": counts.tolist(),
            "scatter": ((counts - n / 10) ** 2 / (n / 10)).sum().item(),
            "as asked": None if asked is None else (seen == asked.cpu()).double().mean().item()}


def draw(sample, denoiser, n: int, labels: bool, half: str, **options) -> tuple:
    """
    `n` images, the labels asked for or None, and the seconds that it took.

    Three steps with batches of the same shapes come before the clock: kernels are chosen and compiled there.
    """
    y, device = torch.arange(n) % 10 if labels else None, denoiser.schedule.betas.device
    fast = torch.autocast(device.type, torch.float16 if half == "fp16" else torch.bfloat16, enabled=half != "float32")
    def chunk(first, **options):
        count = min(CHUNK, n - first)
        part = None if y is None else y[first:first + count].to(device)
        return sample(denoiser, count, y=part, seed=first, progress=False, **options).float().cpu()
    with fast:
        if device.type in WARM:
            for first in {0, (n - 1) // CHUNK * CHUNK}:
                chunk(first, steps=3)
        wait()
        start = time.perf_counter()
        images = torch.cat([chunk(first, **options) for first in range(0, n, CHUNK)])
        return images, y, time.perf_counter() - start


def quality(args, report: Report) -> None:
    "Samples of this run's model and of the bundled one, judged; and four samplers on the better of the two."
    _, _, held_out = prepared(args)
    n, steps = (50, 10) if args.small else (10_000, 20)
    half = choose(look_around(args.device))[0].get("precision", "float32")
    judge = DigitFeatures(args.device)
    real, labels = held_out.batch(torch.arange(len(held_out), device=held_out.images.device))
    report.add({"judge": str(judge), "real": verdict(judge, real.cpu(), labels)})
    say("real", report.found["real"])
    compare = 0 if args.small else 2000
    real_features = judge.features(real[:compare].cpu()) if compare else None
    models = {"this run": load_pretrained(args.folder / "model", device=args.device),
              "bundled": load_pretrained("digits", device=args.device)}
    for name, denoiser in models.items():
        found = {}
        for kind, asked, with_labels in (("by class", denoiser, True),
                                         ("by class, guided by 2", with_guidance(denoiser, 2.0), True),
                                         ("without a label", denoiser, False)):
            images, y, seconds = draw(ddim_sample, asked, n, with_labels, half, steps=steps)
            found[kind] = verdict(judge, images, y) | {"seconds": seconds, "steps": steps}
            if kind == "by class" and compare:
                scores = all_scores(real_features, judge.features(images[:compare]))
                found["scores"] = {"n": compare} | {k: list(v) for k, v in scores.items()}
            if kind == "by class":
                report.add_row(f"{name}, by class", images[:10])
            report.add({name: found})
            say(name, kind, found[kind])
        m, levels = (12, 8) if args.small else (500, 40)
        on = torch.device("cpu") if args.device.type == "mps" else args.device  # bits need float64
        bits = bits_per_dim(copy.deepcopy(denoiser).to(on), real[:m].to(on), y=labels[:m].to(on), levels=levels,
                            generator=torch.Generator(on).manual_seed(0))
        found["bits"] = {"mean": bits.mean().item(), "error": (bits.std() / m**0.5).item(), "n": m}
        report.add({name: found})
    best = models["bundled" if args.small else "this run"]
    ways = {"DDPM, 1000 calls": (ddpm_sample, 1000), "DDIM, 50 calls": (ddim_sample, 50),
            "DDIM, 20 calls": (ddim_sample, 20), "DPM-Solver++(2M), 15 calls": (dpmpp_sample, 15)}
    if args.small:
        ways = {"DDPM, 50 calls": (ddpm_sample, 50), "DPM-Solver++(2M), 15 calls": (dpmpp_sample, 15)}
    samplers = {}
    for name, (sample, calls) in ways.items():
        count = 20 if args.small else n // 5 if sample is ddpm_sample else n
        images, y, seconds = draw(sample, best, count, True, half, steps=calls)
        samplers[name] = verdict(judge, images, y) | {"seconds": seconds}
        report.add_row(name, images[:10])
        report.add({"samplers": samplers, "samplers draw from": "bundled" if args.small else "this run"})
    if not args.small:
        report.add({"goals": goals(report.found)})


def goals(found: dict) -> dict:
    "What was hoped for, what came, and whether that is enough; of what was measured."
    ours, n = found["this run"]["by class"], found["this run"]["by class"]["n"]
    apart = max(abs(10 * k / n - 1) for k in ours["classes"])
    goals = {"seconds to the model, at most 180": (found["run"]["seconds"], found["run"]["seconds"] <= 180),
             "share of sure samples, within 1% of that of real digits":
                 (ours["sure"] - found["real"]["sure"], abs(ours["sure"] - found["real"]["sure"]) <= 0.01),
             "each class within 2% of its share": (apart, apart <= 0.02),
             "seconds for 10,000 samples in 20 steps, at most 5": (ours["seconds"], ours["seconds"] <= 5)}
    for name, part, least in (("as shipped", "as shipped", 1.5), ("with the same switches", "both channels_last", 1.0)):
        for mode, ratio in found.get("unet", {}).get("ours_over_diffusers", {}).get(part, {}).items():
            goals[f"the paper's network, {mode}, {name}: at least {least} of diffusers'"] = (ratio, ratio >= least)
    return {name: {"found": found, "met": met} for name, (found, met) in goals.items()}


def other(report: Report, key: str, script: str, *options: str) -> None:
    "Another of the benchmarks, as a process; its results become part of the report."
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        done = subprocess.run([sys.executable, HERE / script, *options, "--out", out], text=True, capture_output=True)
        say(done.stdout[-3000:])
        if done.returncode or not out.is_file():
            raise RuntimeError(f"{script} ended with {done.returncode}: {done.stderr[-500:]}")
        found = json.loads(out.read_text(encoding="utf-8"))
    report.add({key: found[-1] if isinstance(found, list) else found})


def unet(args, report: Report) -> None:
    "Ours and diffusers', as shipped and with the same switches; and once more compiled."
    names = [f"{name}, {form}" for name in ("ours", "diffusers") for form in ("channels_last", "contiguous")]
    size = ["--batch-size", "128", "--rounds", "5", "--repeats", "5", "--only", *names]
    if args.small:
        size = ["--batch-size", "1", "--rounds", "1", "--peak", "0", "--profile", "0", "--only", names[0]]
    other(report, "unet", "unet.py", "--device", args.device.type, *size)
    if not args.small:
        if "this run" in report.found:
            report.add({"goals": goals(report.found)})
        other(report, "unet, compiled", "unet.py", "--device", args.device.type, *size, "--compile", "--profile", "0",
              "--peak", "0")


def loops(args, report: Report) -> None:
    size = (["--rounds", "1"] if args.small else
            ["--switches", "--rounds", "30", "--batch-size", "128", "--size", "large"])
    other(report, "loops", "train.py", "--device", args.device.type, *size)


def samplers(args, report: Report) -> None:
    size = ["--rounds", "1", "--steps", "50"] if args.small else ["--rounds", "3"]
    other(report, "samplers beside others'", "samplers.py", "--device", args.device.type, *size)


def bare(state: TrainState) -> None:
    "Undo what TrainState and new_state switch on by themselves."
    for model in (state.denoiser.model, state.ema.module):
        model.to(memory_format=torch.contiguous_format)
    state.optimizer = torch.optim.AdamW(state.denoiser.model.parameters(), weight_decay=0.0, foreach=False, fused=False)


def to_channels_last(state: TrainState) -> None:
    for model in (state.denoiser.model, state.ema.module):
        model.to(memory_format=torch.channels_last)


def fuse(state: TrainState) -> None:
    state.optimizer = torch.optim.AdamW(state.denoiser.model.parameters(), weight_decay=0.0, fused=True)


def compile_it(state: TrainState) -> None:
    state.denoiser.model.compile()


def record_graphs(state: TrainState) -> None:
    state.denoiser.model.compile(mode="reduce-overhead")


LADDER = {  # name: (what is done to a state that was made bare, 16 bits, TF32)
    "float32, images on the CPU": ((), False, False),
    "float32, images on the GPU": ((), False, False),
    "+ TF32": ((), False, True),
    "+ 16-bit numbers": ((), True, True),
    "+ channels_last": ((to_channels_last,), True, True),
    "+ fused AdamW": ((to_channels_last, fuse), True, True),
    "+ compile": ((to_channels_last, fuse, compile_it), True, True),
    "+ CUDA graphs": ((to_channels_last, fuse, record_graphs), True, True)}


def speed(config: TrainConfig, data, change=(), tf32: bool = False, warm: int = 12, steps: int = 40) -> dict:
    """
    Images per second of the training step, after `warm` steps that are not counted, and the memory it took.

    On a CPU the clock is the processor time of this process, with one thread, so that other work counts for nothing.
    """
    free_memory()
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    state = new_state(dataclasses.replace(config, compile=False), data.classes)
    bare(state)
    for step in change:
        step(state)
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    index = torch.arange(config.batch_size, device=data.images.device) % len(data)
    try:
        for n in range(warm + steps):
            if n == warm:
                wait()
                start = clock()
            train_step(state, data.batch(index), config)
        wait()
        return {"images_per_second": steps * config.batch_size / (clock() - start),
                "memory_gib": peak_memory()}
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def switches(args, report: Report) -> None:
    "The ladder from the slowest form upwards, each rung on top of the ones before; and growing batches at its top."
    config, data, _ = prepared(args)
    half, count = config.precision, {"warm": 2, "steps": 4} if args.small else {}
    config = dataclasses.replace(config, accumulate=1, batch_size=4 if args.small else config.batch_size)
    ladder = {}
    for name, (change, in_half, tf32) in LADDER.items():
        if args.small and name not in ("float32, images on the CPU", "+ channels_last", "+ fused AdamW"):
            continue  # the others are not for CPUs
        source = data.to("cpu") if name.endswith("on the CPU") else data
        try:
            ladder[name] = speed(dataclasses.replace(config, precision=half if in_half else "float32"), source, change,
                                 tf32, **count)
        except Exception as error:  # out of memory, or a compiler that fails: this rung is missing
            ladder[name] = {"failed": f"{type(error).__name__}: {error}"[:300]}
        say(name, ladder[name])
        report.add({"switches": ladder})
    sizes = {}
    for batch in (1, 4, 16, 64) if args.small else (16, 64, 256, 1024, 4096):
        for precision in dict.fromkeys(("float32", half)):
            one = dataclasses.replace(config, batch_size=batch, precision=precision)
            try:
                sizes[f"{precision}, {batch}"] = speed(one, data, (to_channels_last, fuse), True, **count)
            except torch.OutOfMemoryError:
                sizes[f"{precision}, {batch}"] = {"failed": "out of memory"}
            report.add({"batches": sizes})


def checks(args, report: Report) -> None:
    "What only a GPU shows, one after the other; on a CPU, as far as it goes."
    config, data, _ = prepared(args)
    tiny = dataclasses.replace(config, compile=False, accumulate=1, batch_size=32, steps=6, save_every=3, warmup=2)
    on_gpu, found = args.device.type == "cuda", {}
    wanted = {"30 updates in bf16": functools.partial(stays_finite, "bf16"),
              "30 updates in fp16": functools.partial(stays_finite, "fp16") if on_gpu else None,
              "the caller's random state is kept": random_states_are_kept, "resumed, equal to the bit": resumes_exactly,
              "a full card": fits_into_a_full_card if on_gpu else None}
    for name, look in wanted.items():
        try:
            found[name] = look(tiny, data) if look else {"passed": None, "why not": "wants a GPU"}
        except Exception as error:
            traceback.print_exc()
            found[name] = {"passed": False, "why not": f"{type(error).__name__}: {error}"[:300]}
        say(name, found[name])
        report.add({"checks": found})
    report.add({"checks": found | {"two processes over NCCL": {"passed": None, "why not": "wants two cards"}}})


def updated(config: TrainConfig, data, state: TrainState | None = None) -> tuple[TrainState, list[float]]:
    "A state after all updates of `config`, and their losses."
    state = state or new_state(config, data.classes)
    return state, [loss.item() for _, loss in training_steps(state, data, config)]


def stays_finite(precision: str, tiny: TrainConfig, data) -> dict:
    _, losses = updated(dataclasses.replace(tiny, precision=precision, steps=30), data)
    return {"passed": all(map(math.isfinite, losses)), "losses": [losses[0], losses[-1]]}


def random_states_are_kept(tiny: TrainConfig, data) -> dict:
    def states():
        return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [])]
    before = states()
    state, _ = updated(dataclasses.replace(tiny, dropout=0.1), data)
    ddim_sample(state.averaged, 4, steps=3, y=torch.arange(4), seed=0, progress=False)
    return {"passed": all(map(torch.equal, before, states()))}


def resumes_exactly(tiny: TrainConfig, data) -> dict:
    torch.use_deterministic_algorithms(True)
    try:
        with tempfile.TemporaryDirectory() as folder:
            tiny = dataclasses.replace(tiny, precision="float32", out=folder + "/run")
            whole, _ = updated(tiny, data)
            state = new_state(tiny, data.classes)
            for step, _ in training_steps(state, data, tiny):
                if step == 3:
                    break
            save_checkpoint(state, tiny)
            state = new_state(tiny, data.classes)
            resume_from(state, tiny)
            state, _ = updated(tiny, data, state)
    finally:
        torch.use_deterministic_algorithms(False)
    a, b = (s.averaged.state_dict() for s in (whole, state))
    return {"passed": all(torch.equal(a[k], b[k]) for k in a)}


def fits_into_a_full_card(tiny: TrainConfig, data) -> dict:
    free_memory()
    free, _ = torch.cuda.mem_get_info()
    full = torch.empty(free - int(0.8 * 2**30), dtype=torch.uint8, device="cuda")  # leaves 0.8 GiB
    fitted = make_it_fit(dataclasses.replace(tiny, batch_size=8192), functools.partial(one_step, data=data))
    taken = full.numel() / 2**30
    return {"passed": fitted.accumulate > 1, "parts": fitted.accumulate, "batch": 8192, "GiB taken": taken}


PARTS = {"run": run, "quality": quality, "unet": unet, "switches": switches, "loops": loops, "samplers": samplers,
         "checks": checks}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="the rehearsal: a small size on the CPU")
    parser.add_argument("--parts", nargs="+", choices=PARTS,
                        help="by default all; with --small those that take seconds")
    parser.add_argument("--mnist", type=Path, help="a folder with the four files of MNIST, *-ubyte.gz")
    parser.add_argument("--folder", type=Path, help="where the model goes; by default a temporary folder")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    args.device = torch.device("cpu") if args.small else pick_device()
    if args.small:
        torch.set_num_threads(1)
    if args.device.type == "cpu" and not args.small:
        raise SystemExit("there is no GPU here; --small rehearses on a CPU")
    args.parts = args.parts or [p for p in PARTS if not (args.small and p in ("unet", "loops", "samplers"))]
    args.folder = args.folder or Path(tempfile.mkdtemp())
    file = args.out or HERE / "results" / f"train_on_gpu{'_small' * args.small}.json"
    report = Report(file, args.device, args.small)
    failed = []
    for name in args.parts:
        started = time.perf_counter()
        try:
            PARTS[name](args, report)
        except Exception as error:  # the next part may still tell something
            traceback.print_exc()
            failed.append(name)
            report.add({"failed": report.found.get("failed", {}) | {name: f"{type(error).__name__}: {error}"[:500]}})
        else:
            report.add({"failed": {k: v for k, v in report.found.get("failed", {}).items() if k != name}})
        about = {"seconds": round(time.perf_counter() - started, 1), "date": datetime.date.today().isoformat()}
        report.add({"parts": report.found.get("parts", {}) | {name: about}})
        say(f"--- {name}: {about['seconds']} s{', FAILED' * (name in failed)}")
        free_memory()
    say(f"written to {file}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
