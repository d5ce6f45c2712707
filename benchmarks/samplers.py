"""What does a sampler cost besides the network? Ours, diffusers' schedulers and lucidrains' `p_sample`, taking turns.

    python benchmarks/samplers.py                     # about three minutes on two quiet CPU cores
    python benchmarks/samplers.py --rounds 3          # a short try
    python benchmarks/samplers.py --device cuda       # also with a real network: eager, compiled, CUDA graphs
    python benchmarks/samplers.py --strict            # exits with 1 where ours costs half as much again as theirs

The network is a stub that answers at once with a stored tensor, the noise estimate. What is left is overhead: from that
answer to the image estimate, clipping, the move to the next level, and whatever checks and look-ups a library makes.
Both sides do the same work: DDIM clips and moves the noise estimate along, PLMS does not clip (but ours gives the image
estimate of every step, and theirs has none). 64 images of 1x32x32, float32, `--threads` threads (1 by default), a
linear schedule of 1000 levels, 1000 steps of DDPM and 50 of the others, repeated to as many.

Random numbers cost every DDPM the same; the time of drawing them alone is measured too and taken off ("without
drawing"). In each round all contestants run one after the other, so that a busy moment of the machine hits all of them.
Reported are medians over the rounds, and for the comparison the median of the ratios within a round. With one thread on
a CPU the clock is the processor time of this process; otherwise it is the wall clock.

Memory: how far the resident set rises above that of the twentieth step, in 100 and in 1000 steps, in a process of its
own for each sampler (Linux only); on a GPU, what the allocator holds. The last line, "DDIM, all steps kept", is there
to show that growth would be seen: 64 images of 1x32x32 are 256 KiB, and a step that is kept holds two such tensors.

diffusers and lucidrains are left out where they are not installed (pip install diffusers denoising-diffusion-pytorch).
Results are added to benchmarks/results/samplers.json (or --out), with machine and date.
"""
import argparse
import contextlib
import datetime
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from machine import machine

from ddpm_course.ddim import ddim_steps
from ddpm_course.ddpm import ddpm_steps
from ddpm_course.forward import NoiseSchedule, linear_beta_schedule
from ddpm_course.guidance import with_guidance
from ddpm_course.objective import Denoiser
from ddpm_course.solvers import dpmpp_steps, heun_steps, plms_steps
from ddpm_course.unet import UNet, UNetConfig

RESULTS = Path(__file__).parent / "results" / "samplers.json"
SHAPE = (1, 32, 32)
KEPT = ", all steps kept"
COMPARED = (("ours: DDPM", "diffusers: DDPM"), ("ours: DDPM", "lucidrains: p_sample"),
            ("ours: DDIM", "diffusers: DDIM"),
            ("ours: PLMS", "diffusers: PLMS"), ("ours: DPM-Solver++(2M)", "diffusers: DPM-Solver++(2M)"))
DRAWS = ("ours: DDPM", "diffusers: DDPM", "lucidrains: p_sample")  # these draw noise in every step
OURS = {"DDPM": ddpm_steps, "DDIM": ddim_steps, "Heun": heun_steps, "PLMS": plms_steps, "DPM-Solver++(2M)": dpmpp_steps}


class Stub(torch.nn.Module):
    "A network that costs nothing: it answers with the tensor it was made with."
    def __init__(self, answer: torch.Tensor):
        super().__init__()
        self.answer, self.channels, self.out_dim = answer, SHAPE[0], SHAPE[0]
        self.self_condition, self.random_or_learned_sinusoidal_cond = False, False  # what lucidrains asks its networks

    def forward(self, x, t, y=None, x0_prev=None):
        return self.answer


def run(steps) -> None:
    for _ in steps:
        pass


def ours(args, model: torch.nn.Module) -> dict[str, tuple[Callable, int]]:
    "Our samplers: name -> (a function that samples once, its number of steps)."
    denoiser = Denoiser(model, NoiseSchedule(linear_beta_schedule()), "eps", shape=SHAPE).to(args.device)
    found = {}
    for name, steps_function in OURS.items():
        n = 1000 if name == "DDPM" else 50
        clip = None if name == "PLMS" else "denoiser"  # diffusers' PLMS does not clip
        found[f"ours: {name}"] = (
            lambda f=steps_function, n=n, clip=clip: run(f(denoiser, args.batch_size, steps=n, seed=0, clip=clip)), n)
    guided, labels = with_guidance(denoiser, 2.0), torch.zeros(args.batch_size, dtype=torch.int64, device=args.device)
    found["ours: DDIM, guided"] = (lambda: run(ddim_steps(guided, args.batch_size, steps=50, seed=0, y=labels)), 50)
    return found


def diffusers_loop(scheduler, args, answer: torch.Tensor, n: int) -> Callable:
    "Sampling as diffusers' pipelines do it, without a pipeline; DDIM moves eps along with a clipped x0, as ours does."
    def sample():
        generator = torch.Generator(args.device).manual_seed(0)
        x = torch.randn((args.batch_size, *SHAPE), generator=generator, device=args.device)
        scheduler.set_timesteps(n, device=args.device)
        extra = {} if type(scheduler).__name__ == "PNDMScheduler" else {"generator": generator}
        if type(scheduler).__name__ == "DDIMScheduler":
            extra["use_clipped_model_output"] = True
        with torch.no_grad():
            for t in scheduler.timesteps:
                x = scheduler.step(answer, t, x, **extra).prev_sample
    return sample


def theirs(args, answer: torch.Tensor) -> dict[str, tuple[Callable, int]]:
    found = {}
    with contextlib.suppress(ImportError):
        from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, PNDMScheduler

        kinds = {"DDPM": (DDPMScheduler, 1000, {}), "DDIM": (DDIMScheduler, 50, {}),
                 "PLMS": (PNDMScheduler, 50, {"skip_prk_steps": True}),
                 "DPM-Solver++(2M)": (DPMSolverMultistepScheduler, 50, {})}
        for name, (kind, n, options) in kinds.items():
            scheduler = kind(num_train_timesteps=1000, beta_start=1e-4, beta_end=0.02, **options)
            found[f"diffusers: {name}"] = (diffusers_loop(scheduler, args, answer, n), n)
    with contextlib.suppress(ImportError):
        from denoising_diffusion_pytorch import GaussianDiffusion

        diffusion = GaussianDiffusion(Stub(answer), image_size=SHAPE[1], timesteps=1000, beta_schedule="linear",
                                      objective="pred_noise").to(args.device)

        def sample():
            x = torch.randn((args.batch_size, *SHAPE), device=args.device)
            with torch.inference_mode():
                for t in range(999, -1, -1):
                    x = diffusion.p_sample(x, t)[0]
        found["lucidrains: p_sample"] = (sample, 1000)
    for name in ("diffusers", "lucidrains"):
        if not any(n.startswith(name) for n in found):
            print(f"{name} is not installed and left out")
    return found


def clock(args) -> str:
    return "processor time" if args.device == "cpu" and args.threads == 1 else "wall clock"


def seconds(work: Callable, args) -> float:
    now = time.process_time if clock(args) == "processor time" else time.perf_counter
    if args.device == "cuda":
        torch.cuda.synchronize()
    start = now()
    work()
    if args.device == "cuda":
        torch.cuda.synchronize()
    return now() - start


def microseconds_a_step(contestants: dict, args) -> dict[str, list[float]]:
    "Each contestant's time a step in every round; short runs are repeated until they make `args.steps` steps."
    times = {name: [] for name in contestants}
    for work, _ in contestants.values():
        work()  # warm up
    for _ in range(args.rounds):
        for name, (work, n) in contestants.items():
            repeats = max(1, args.steps // n)
            taken = seconds(lambda work=work, repeats=repeats: [work() for _ in range(repeats)], args)
            times[name].append(taken / (repeats * n) * 1e6)
    return times


def drawing(args) -> tuple[Callable, int]:
    generator = torch.Generator(args.device).manual_seed(0)

    def work():
        for _ in range(200):
            torch.randn((args.batch_size, *SHAPE), generator=generator, device=args.device)
    return work, 200


def compare(times: dict[str, list[float]]) -> dict[str, float]:
    "Ours as a share of theirs, the drawing of noise taken off both: medians of the ratios within a round."
    shares = {}
    for pair in COMPARED:
        if pair[1] in times:
            net = [[t - (name in DRAWS) * d for t, d in zip(times[name], times["drawing noise"])] for name in pair]
            shares[" / ".join(pair)] = statistics.median(a / b for a, b in zip(*net))
    return shares


def peak(name: str, steps: int, args) -> int:
    "Run in a process of its own: bytes by which memory rises between step 20 and the end."
    answer = torch.randn(args.batch_size, *SHAPE, device=args.device)
    denoiser = Denoiser(Stub(answer), NoiseSchedule(linear_beta_schedule()), "eps", shape=SHAPE).to(args.device)

    def held() -> int:
        if args.device == "cuda":
            return torch.cuda.memory_allocated()
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    kept, seen = [], []
    for step in OURS[name.removesuffix(KEPT)](denoiser, args.batch_size, steps=steps, seed=0):
        kept += [step] if name.endswith(KEPT) else []
        seen.append(held())
    return max(seen[20:]) - seen[20]


def memory(args) -> dict[str, dict[str, int]]:
    found = {}
    for name in (*OURS, "DDIM" + KEPT):
        command = [sys.executable, __file__, "--device", args.device, "--batch-size", str(args.batch_size),
                   "--threads", str(args.threads), "--peak", name, "--peak-steps"]
        found[name] = {n: int(subprocess.run([*command, n], capture_output=True, text=True, check=True).stdout)
                       for n in ("100", "1000")}
    return found


def with_a_network(args) -> dict[str, float]:
    "On a GPU: milliseconds a DDIM step with the CIFAR-10 network, eager, compiled, and as CUDA graphs."
    found = {}
    for name, options in {"eager": None, "compiled": {}, "CUDA graphs": {"mode": "reduce-overhead"}}.items():
        torch.manual_seed(0)
        model = UNet(UNetConfig()).to(args.device, memory_format=torch.channels_last).eval()
        denoiser = Denoiser(model, NoiseSchedule(linear_beta_schedule()).to(args.device), shape=(3, 32, 32))
        if options is not None:
            model.compile(**options)

        def work(denoiser=denoiser):
            with torch.autocast(args.device, torch.bfloat16):
                run(ddim_steps(denoiser, args.batch_size, steps=50, seed=0))
        for _ in range(3):
            work()
        found[name] = statistics.median(seconds(work, args) for _ in range(args.rounds)) / 50 * 1e3
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=1000, help="steps of each contestant in a round")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--strict", action="store_true")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    parser.add_argument("--peak-steps", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.peak:
        print(peak(args.peak, args.peak_steps, args))
        return 0

    answer = torch.randn(args.batch_size, *SHAPE, generator=torch.Generator().manual_seed(0)).to(args.device)
    contestants = {"drawing noise": drawing(args), **ours(args, Stub(answer)), **theirs(args, answer)}
    times = microseconds_a_step(contestants, args)
    median = {name: statistics.median(t) for name, t in times.items()}
    shares, used = compare(times), memory(args) if sys.platform == "linux" or args.device == "cuda" else {}

    print(f"\n{'microseconds a step, ' + clock(args):36}{'median':>9}{'without drawing':>18}")
    for name, t in median.items():
        print(f"{name:36}{t:9.0f}{t - median['drawing noise'] if name in DRAWS else t:18.0f}")
    print("\nours as a share of theirs, without drawing")
    for name, share in shares.items():
        print(f"{name:56}{share:6.2f}")
    if used:
        print("\nrise of memory from step 20 on, KiB: within 100 steps, within 1000")
        for name, found in used.items():
            print(f"{name:32}{found['100'] / 1024:9.0f}{found['1000'] / 1024:9.0f}")
    network = with_a_network(args) if args.device == "cuda" else None
    if network:
        listed = ", ".join(f"{k} {v:.2f}" for k, v in network.items())
        print("\nmilliseconds a DDIM step with the CIFAR-10 network:", listed)

    record = {"date": datetime.date.today().isoformat(), **machine(args.device), "clock": clock(args),
              "batch": args.batch_size, "rounds": args.rounds, "microseconds_a_step": median, "rounds_of": times,
              "share_of_theirs": shares, "memory_bytes": used, "network_milliseconds": network}
    records = json.loads(args.out.read_text(encoding="utf-8")) if args.out.exists() else []
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps([*records, record], indent=1) + "\n", encoding="utf-8")
    return int(args.strict and any(share > 1.5 for share in shares.values()))


if __name__ == "__main__":
    sys.exit(main())
