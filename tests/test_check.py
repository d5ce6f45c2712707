"""What looks at the reader's code: a stub is refused politely, a right answer passes, a likely mistake is named."""
import inspect
import json
import math
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from ddpm_course import check, data, ddim, ddpm, embedding, evaluation, exact, forward, guidance, likelihood
from ddpm_course import objective, schedules, solvers, unet
from ddpm_course.check import small, whole
from ddpm_course.check.answers import ANSWERS
from ddpm_course.check.ddpm import _large, _small, _walk
from ddpm_course.check.record import recorded
from ddpm_course.hub import load_pretrained

EXERCISES = check.EXERCISES
ASSETS = Path(check.__file__).parent.parent / "assets"


@pytest.fixture(autouse=True)
def record(monkeypatch, tmp_path):
    "No test writes to the home of whoever runs it."
    monkeypatch.setenv("DDPM_COURSE_PROGRESS", str(tmp_path / "home" / "progress.json"))
    return tmp_path / "home" / "progress.json"


def q_sample(x0, t, noise, alpha_bar):
    a = alpha_bar[t].view(-1, 1, 1, 1)
    return a.sqrt() * x0 + (1 - a).sqrt() * noise


@pytest.mark.parametrize("name", EXERCISES)
def test_the_reference_passes(name):
    verdict = EXERCISES[name](EXERCISES[name].reference)
    assert verdict and verdict.right and verdict.mistake is None and verdict.text.startswith(f"{name}: right: ")


MISTAKES = [(name, sentence, i) for name, each in EXERCISES.items() for sentence in each.mistakes
            for i in range(len(each.variants(sentence)))]


@pytest.mark.parametrize("name, sentence, i", MISTAKES)
def test_each_anticipated_mistake_is_named(name, sentence, i, record, capsys):
    variant = EXERCISES[name].variants(sentence)[i]
    assert not all(isinstance(each, Exception) for each in EXERCISES[name].outcomes(variant))  # or any stop would match
    verdict = EXERCISES[name](variant)
    assert not verdict and verdict.mistake == sentence and verdict.text == f"{name}: {sentence}."
    assert capsys.readouterr().out == verdict.text + "\n" and not record.exists()


@pytest.mark.parametrize("name", EXERCISES)
def test_an_exercise_knows_three_mistakes_or_more_and_is_offered_by_its_name(name):
    assert len(EXERCISES[name].mistakes) >= 3 and getattr(check, name) is EXERCISES[name]
    assert EXERCISES[name].chapter in {f"{n:02}" for n in range(1, 17)}


def says_so(*given, **named):
    raise NotImplementedError("your turn")


@pytest.mark.parametrize("name", EXERCISES)
@pytest.mark.parametrize("stub", [says_so, lambda *given: None, lambda *given: ...], ids=["raises", "None", "..."])
def test_a_stub_is_not_written_yet(name, stub, record):
    verdict = EXERCISES[name](stub)
    assert not verdict and verdict.mistake is None and not record.exists()
    assert verdict.text.startswith(f"{name}: not written yet. It is {name}(")


def test_a_stub_with_its_docstring_is_not_a_forgotten_return():
    def q_sample(x0, t, noise, alpha_bar):
        "A draw from q(x_t | x0)."
        ...
    assert "not written yet" in check.q_sample(q_sample).text

    def forgetful(x0, t, noise, alpha_bar):
        alpha_bar[t].view(-1, 1, 1, 1).sqrt() * x0
    assert check.q_sample(forgetful).text.startswith("q_sample: it returns nothing; a `return` is missing. It is q_sam")


def test_a_class_whose_forward_has_no_return_is_told_so_too():
    class Begun(torch.nn.Module):
        def __init__(self, in_channels, out_channels, emb_dim):
            super().__init__()
            self.conv = torch.nn.Conv2d(in_channels, out_channels, 3, padding=1)

    class Stub(Begun):
        def forward(self, x, emb):
            "What a block does."
            ...

    class Forgetful(Begun):
        def forward(self, x, emb):
            self.conv(x)
    for stub in (Begun, Stub):
        assert check.ResBlock(stub).text.startswith("ResBlock: not written yet. It is ResBlock(in_channels")
    assert check.ResBlock(Forgetful).text.startswith("ResBlock: it returns nothing; a `return` is missing. It is ResB")


def test_what_is_no_function_is_refused_by_its_kind():
    assert "this is Tensor, expected your function itself" in check.q_sample(torch.zeros(3)).text


def test_an_argument_that_was_written_to_is_named_even_where_the_answer_is_right():
    def in_place(x0, t, noise, alpha_bar):
        a = alpha_bar[t].view(-1, 1, 1, 1)
        return x0.mul_(a.sqrt()).add_((1 - a).sqrt() * noise)
    verdict = check.q_sample(in_place)
    assert not verdict and "changes x0 in place" in verdict.text


def test_the_inputs_are_the_same_each_time_and_never_shared():
    for exercise in EXERCISES.values():
        for one, other in zip(exercise.cases(), exercise.cases()):
            for a, b in zip(one, other):
                if isinstance(a, Tensor):
                    assert torch.equal(a, b) and a.data_ptr() != b.data_ptr()


def test_an_exception_is_shown_with_the_line_of_the_reader():
    def stops(x0, t, noise, alpha_bar):
        return x0 + torch.zeros(7, 7)  # here
    verdict = check.q_sample(stops)
    line = inspect.getsourcelines(stops)[1] + 1
    assert "stopped with RuntimeError: The size of tensor" in verdict.text
    assert f"line {line} of your code: return x0 + torch.zeros(7, 7)  # here" in verdict.text


def test_an_exception_in_a_class_is_shown_with_its_line_too():
    class Stops(torch.nn.Module):
        def __init__(self, in_channels, out_channels, emb_dim):
            super().__init__()

        def forward(self, x, emb):
            return x + emb  # here
    text = check.ResBlock(Stops).text
    assert "stopped with RuntimeError" in text and text.endswith("of your code: return x + emb  # here")


class OwnBlock(torch.nn.Module):
    "A right block in another hand: halves in a row, activations that work in place, dropout; parts may be exchanged."
    def __init__(self, in_channels, out_channels, emb_dim, norm=partial(torch.nn.GroupNorm, 32), activation=None,
                 conv=torch.nn.Conv2d, factor=1):
        super().__init__()
        self.activation, self.factor = activation or torch.nn.SiLU(inplace=True), factor
        half = lambda first, *more: torch.nn.Sequential(norm(first), self.activation, *more,
                                                        conv(first, out_channels, 3, padding=1))
        self.halves = torch.nn.ModuleList([half(in_channels), half(out_channels, torch.nn.Dropout(0.5))])
        self.time = torch.nn.Linear(emb_dim, out_channels)
        self.beside = torch.nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else None
        for part in self.halves[1][-1].parameters():
            torch.nn.init.zeros_(part)

    def forward(self, x, emb):
        beside = self.beside(x) if self.beside else x
        return beside + self.factor * self.halves[1](self.halves[0](x) + self.time(emb).view(*emb.shape[:1], -1, 1, 1))


def test_a_right_block_in_another_hand_passes():
    assert check.ResBlock(OwnBlock)


@pytest.mark.parametrize("parts, words", [
    (dict(norm=torch.nn.BatchNorm2d), "the layers it runs: 3x3 convolution (2), BatchNorm2d (2), Linear (1), expected"),
    (dict(conv=partial(torch.nn.Conv2d, bias=False)), "3x3 convolution without a bias (2)"),
    (dict(activation=torch.nn.Tanh()), "what enters 3x3 convolution 1: values are off by up to"),
    (dict(conv=partial(torch.nn.Conv2d, padding_mode="circular")), "what enters GroupNorm 2: values are off by up to"),
    (dict(factor=0.5), "the result: values are off by up to")], ids=["norm", "no bias", "tanh", "circular", "half"])
def test_a_block_with_an_unknown_mistake_is_told_the_first_place_where_it_shows(parts, words):
    verdict = check.ResBlock(partial(OwnBlock, **parts))
    assert not verdict and verdict.mistake is None and words in verdict.text


@pytest.mark.parametrize("spoil, words", [
    (lambda block, x, result: torch.nn.functional.silu(result), "case 1 of 2: a fresh block gives: something else"),
    (lambda block, x, result: result - x + block.halves[0][0](x) if block.beside is None else result,
     "case 1 of 2: a fresh block gives: something else, expected its input")],
    ids=["SiLU of the sum", "norm in the shortcut"])
def test_what_a_fresh_block_gives_is_said_in_words(spoil, words):
    class Spoilt(OwnBlock):
        def forward(self, x, emb):
            return spoil(self, x, super().forward(x, emb))
    assert words in check.ResBlock(Spoilt).text


def test_a_shortcut_that_starts_at_zero_does_not_pass():
    class Closed(OwnBlock):
        def __init__(self, *sizes):
            super().__init__(*sizes)
            for part in self.beside.parameters() if self.beside else ():
                torch.nn.init.zeros_(part)
    assert "case 2 of 2: a fresh block gives: zeros, expected the 1x1 convolution of its" in check.ResBlock(Closed).text


def test_a_line_that_another_module_stopped_in_is_the_last_of_the_reader():
    def stops(x0, t, noise, alpha_bar):
        return forward.per_sample(alpha_bar, x0) * x0
    assert f"line {inspect.getsourcelines(stops)[1] + 1} of your code: return forward.per_sample" in \
        check.q_sample(stops).text


@pytest.mark.parametrize("change, words", [
    (lambda x: x[:, :, :-1], r"case 1 of 2: shape (3, 1, 3, 5), expected (3, 1, 4, 5)"),
    (lambda x: x * 1.5, "case 1 of 2: every value is 1.5 times what is expected"),
    (lambda x: x + 0.25 * (x > 1), "case 1 of 2: values are off by up to 0.25: "),
    (lambda x: torch.where(x > 1, torch.nan, x), "case 1 of 2: 10 of 60 values are NaN or infinite"),
    (lambda x: (x, x), "case 1 of 2: this is tuple, expected a tensor or a number"),
    (lambda x: x.round().long(), "case 1 of 2: dtype torch.int64, expected floating point"),
], ids=["shape", "factor", "error", "NaN", "tuple", "integers"])
def test_where_an_answer_differs(change, words):
    verdict = check.q_sample(lambda *given: change(q_sample(*given)))
    assert not verdict and verdict.mistake is None
    assert words in verdict.text


def test_a_forgotten_real_part_of_frechet_distance_is_named():
    def mine(a, b):
        cov_a, cov_b = a.T.cov(), b.T.cov()
        root = torch.linalg.eigvals(cov_a @ cov_b).sqrt().sum()
        return (a.mean(0) - b.mean(0)).square().sum() + cov_a.trace() + cov_b.trace() - 2 * root
    assert "dtype torch.complex128, expected real numbers" in check.frechet_distance(mine).text
    assert check.frechet_distance(lambda a, b: mine(a, b).real)


def test_a_missing_part_is_named():
    assert "it returns one thing, Tensor, expected 2: mean, variance" in check.q_posterior(lambda x0, *_: x0).text
    assert "it returns 3 things, expected 2: mean, variance" in check.q_posterior(lambda x0, *_: (x0, x0, x0)).text


def test_a_function_with_other_arguments_is_told_which_are_given():
    text = check.q_sample(lambda x0, t: x0).text
    assert "TypeError" in text and "It is called as q_sample(x0, t, noise, alpha_bar)" in text


def test_the_reader_s_function_runs_once_in_each_case():
    calls = []
    check.q_sample(lambda *given: calls.append(1) or given[0])
    assert len(calls) == len(check.q_sample.cases())


def test_a_posterior_variance_may_have_the_shape_that_torch_stretches():
    def mine(x0, x_t, t, betas):
        schedule = forward.NoiseSchedule(betas)
        return schedule.q_posterior(x0, x_t, t).mean, schedule.posterior_variance[t].view(-1, 1, 1, 1)
    assert check.q_posterior(mine)
    assert not check.q_posterior(lambda *given: (mine(*given)[0], mine(*given)[1].flatten()))


@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
def test_snr_weight_names_the_prediction_that_differs(prediction):
    def mine(alpha_bar, t, given):
        return check.snr_weight.reference(alpha_bar, t, given) + 0.25 * (given == prediction)
    assert check.snr_weight(mine).text.startswith(f"snr_weight: predicting {prediction}: values are off by up to 0.25")


@pytest.mark.parametrize("written, words", [
    ("snr / snr.clamp(max=5) * {'eps': 1, 'x0': snr, 'v': snr / (snr + 1)}[prediction]", "upside down"),
    ("snr.clamp(max=5) * {'x0': 1, 'eps': snr, 'v': snr + 1}[prediction]", "both are divided"),
    ("snr.clamp(max=5) * {'x0': 1, 'eps': 1 / snr, 'v': snr / (snr + 1)}[prediction]", "a factor snr too many"),
    ("snr.clamp(max=5) / {'x0': 1, 'eps': snr, 'v': snr / (snr + 1)}[prediction]", "divided by snr / (snr + 1);"),
])
def test_snr_weight_recognises_what_a_reader_wrote(written, words):
    def mine(alpha_bar, t, prediction):
        return eval(written, {"snr": alpha_bar[t] / (1 - alpha_bar[t]), "prediction": prediction})
    assert words in check.snr_weight(mine).mistake


@pytest.mark.parametrize("written, words", [
    ("1 - f[:-1] / f[1:]", "upside down"),
    ("(1 - f[:-1] / f[1:]).clamp(max=0.999)", "upside down"),
    ("f / f[0]", "these are alpha_bar"),
    ("f[1:] / f[:-1]", "the alphas"),
    ("(f[1:] / f[:-1]).clamp(max=0.999)", "the alphas"),
    ("(1 - f[1:] / f[:-1]).clamp(max=0.999).sqrt()", "these are standard deviations"),
    ("(1 - h[1:] / h[:-1]).clamp(max=0.999)", "beyond 90 degrees"),
    ("(1 - g[1:] / g[:-1]).clamp(max=0.999)", "brackets are missing"),
    ("(1 - f[1:] / torch.cat([one, f[1:-1]])).clamp(max=0.999)", "a 1 stands in front of f"),
    ("(1 - f / torch.cat([one, f[:-1]])).clamp(max=0.999)", "a 1 stands in front of f"),
    ("(1 - f[2:] / f[1:-1]).clamp(max=0.999)", "these are T - 1 betas"),
])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cosine_betas_recognises_what_a_reader_wrote(written, words, dtype):
    def mine(T):
        u = torch.arange(T + 1, dtype=dtype) / T
        f, g, h = (torch.cos(angle * math.pi / 2) ** 2
                   for angle in ((u + 0.008) / 1.008, u + 0.008 / 1.008, (u + 0.008) / 1.008 * 2))
        return eval(written, {"torch": torch, "f": f, "g": g, "h": h, "one": u.new_ones(1)})
    assert words in check.cosine_betas(mine).mistake


def test_cosine_betas_are_asked_for_in_float64():
    def mine(T):
        f = torch.cos((torch.arange(T + 1) / T + 0.008) / 1.008 * math.pi / 2) ** 2
        return (1 - f[1:] / f[:-1]).clamp(max=0.999)
    assert check.cosine_betas(mine).mistake.startswith("these are float32")
    assert "this is list, expected a tensor" in check.cosine_betas(lambda T: mine(T).tolist()).text
    assert "shape (), expected (20,)" in check.cosine_betas(lambda T: mine(T).sum()).text


def schedule_of(alpha_bar: Tensor) -> forward.NoiseSchedule:
    return forward.NoiseSchedule(1 - torch.cat([alpha_bar[:1], alpha_bar[1:] / alpha_bar[:-1]]).double())


def course_loss(model, x0, t, noise, alpha_bar):
    denoiser = objective.Denoiser(lambda x, t, y: model(x, t), schedule_of(alpha_bar), shape=x0.shape[1:])
    return objective.diffusion_loss(denoiser, x0, t, noise).mean()


def course_posterior(x0, x_t, t, betas):
    posterior = forward.NoiseSchedule(betas).q_posterior(x0, x_t, t)
    return posterior.mean, posterior.variance


def course_two_points(x_t, alpha_bar):
    world = exact.IdealDenoiser(exact.GaussianMixture([[1.0], [-1.0]], 0.0), forward.NoiseSchedule(1 - alpha_bar[None]))
    return world(x_t.reshape(-1, 1), 0).x0.view_as(x_t)


def course_ddpm_sample(model, x, betas, generator):
    denoiser = objective.Denoiser(lambda x, t, y: model(x, t), forward.NoiseSchedule(betas), shape=x.shape[1:])
    return ddpm.ddpm_sample(denoiser, x, generator=generator, progress=False)


def course_ddim_move(x_t, eps, alpha_bar_t, alpha_bar_prev):
    levels = torch.stack([alpha_bar_prev, alpha_bar_t]) if alpha_bar_prev < 1 else alpha_bar_t[None]
    denoiser = objective.Denoiser(lambda x, t, y: eps, schedule_of(levels), shape=x_t.shape[1:], clip=None)
    steps = list(ddim.ddim_steps(denoiser, x_t))
    return steps[-1].x_t if len(steps) == 2 else steps[-1].x0


def course_guided(conditional, unconditional, scale):
    def denoiser(x_t, t, y=None):
        answer = unconditional if y is None else conditional
        return forward.Denoised(answer, answer)
    denoiser.schedule, denoiser.shape, denoiser.clip = schedule_of(small.alpha_bar()), conditional.shape[1:], None
    return guidance.with_guidance(denoiser, scale)(conditional, 0, torch.zeros(2, dtype=torch.int64)).eps


def course_dpmpp_move(x, x0, x0_before, levels):
    run = SimpleNamespace(schedule=schedule_of(torch.tensor([a**2 for a, _ in levels[::-1]])))
    return solvers._dpmpp_move(run, x, x0, [(2, x0_before)], 1, 0)


COURSE = {
    "two_points": course_two_points,
    "cosine_betas": schedules.cosine_beta_schedule,
    "time_embedding": embedding.timestep_embedding,
    "ResBlock": lambda *sizes: unet.ResBlock(*sizes, dropout=0.1, groups=32),
    "attention": torch.nn.functional.scaled_dot_product_attention,
    "ddpm_sample": course_ddpm_sample,
    "ddim_move": course_ddim_move,
    "guided": course_guided,
    "discretized_log_prob": lambda mean, std, x: likelihood.discretized_log_prob(forward.Gaussian(mean, std**2), x),
    "dpmpp_move": course_dpmpp_move,
    "frechet_distance": evaluation.frechet_distance,
    "to_model_range": data.to_model_range,
    "q_sample": lambda x0, t, noise, alpha_bar: schedule_of(alpha_bar).q_sample(x0, t, noise),
    "q_posterior": course_posterior,
    "loss": course_loss,
    "snr_weight": lambda alpha_bar, t, prediction:
        objective.loss_weight(schedule_of(alpha_bar), t, prediction, "min_snr", 5.0),
}


@pytest.mark.parametrize("name", COURSE)
def test_the_course_itself_passes(name):
    "The references of the exercises are written out here and in the chapters: neither may be wrong alone."
    assert EXERCISES[name](COURSE[name])


def test_the_course_passes_wherever_it_has_a_function_of_its_own():
    without = {"train_step",  # the course's is a whole state: see tests/my_ddpm.py
               "step_memory"}  # what it says is measured in chapter 16
    assert EXERCISES.keys() - COURSE.keys() == without


# ---- Algorithm 2, which may be right in more than one way


def test_both_variances_of_algorithm_2_are_right():
    assert check.ddpm_sample(_walk(_large)).text.endswith("with the variance beta of each step.")


def drawn_otherwise(std, factor=1.0, shift=0.0):
    "Algorithm 2 with noise from torch's global random state."
    walk = _walk(lambda *level: factor * std(*level))
    return lambda model, x, betas, generator: walk(model, x, betas, None) + shift


@pytest.mark.parametrize("std", [_small, _large])
def test_algorithm_2_with_other_noise_is_judged_by_its_distribution(std):
    "Of 20,000 pixels, with standard deviation 0.15, four standard errors are allowed: 0.004 for the mean, 2% for it."
    assert "right: mean and standard deviation of 20,000 pixels" in check.ddpm_sample(drawn_otherwise(std)).text
    assert not check.ddpm_sample(drawn_otherwise(std, factor=1.1))
    assert not check.ddpm_sample(drawn_otherwise(std, shift=0.01))


def test_a_level_that_is_no_tensor_is_refused_with_the_line_of_the_reader():
    def asks_with_a_number(model, x, betas, generator):
        return model(x, 11)
    text = check.ddpm_sample(asks_with_a_number).text
    assert "t is 11, expected int64 of shape (3,)" in text and "of your code: return model(x, 11)" in text


def test_a_verdict_shows_nothing_more_in_a_notebook():
    assert check.q_sample(says_so)._ipython_display_() is None


# ---- numbers


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_is_right_or_its_mistake_is_named(name, record):
    right = ANSWERS[name]
    for number, sentence in right.mistakes.items():
        verdict = check.answer(name, number)
        assert not verdict and verdict.mistake == sentence and sentence in verdict.text
    assert not check.answer(name, -77) and not check.answer(name, None) and not check.answer(name, ...)
    assert not record.exists()
    assert check.answer(name, right.value) and name in json.loads(record.read_text())


def test_the_answers_follow_from_the_course():
    alpha_bar = (1 - forward.linear_beta_schedule()).cumprod(0)
    assert check.answer("02 steps until half noise", int((alpha_bar < 0.5).nonzero()[0]))
    assert check.answer("01 grey level of 0", data.to_uint8(torch.zeros(1)).item())
    noise = torch.randn(100_000, generator=torch.Generator().manual_seed(0))  # standard error sqrt(2 / n) = 0.0045
    assert check.answer("04 loss of a network that answers 0", noise.square().mean())
    block = unet.ResBlock(128, 256, 512, dropout=0.1, groups=32)
    assert check.answer("07 parameters of a residual block", sum(p.numel() for p in block.parameters()))
    learned = load_pretrained("digits").model.state_dict()
    content = (ASSETS / "models/digits/model.safetensors").read_bytes()
    numbers, size = sum(w.numel() for w in learned.values()), len(content)
    header = int.from_bytes(content[:8], "little")
    assert check.answer("15 numbers in a file of weights", numbers)
    wrong = ANSWERS["15 numbers in a file of weights"].mistakes
    added = sum(sum(w.shape) for w in learned.values())
    weights = sum(w.numel() for name, w in learned.items() if name.endswith("weight"))
    assert list(wrong) == [len(learned), size // 2, size // 4, 2 * numbers, 2 * numbers // 4, size, numbers + 8 // 2,
                           (size - 8) // 2, header, weights, added]


def test_an_unknown_question_is_refused_by_name():
    with pytest.raises(ValueError, match="name is '02 half', expected one of"):
        check.answer("02 half", 3)


def test_what_is_no_number_is_no_answer():
    verdict = check.answer("02 steps until half noise", "half")
    assert not verdict and verdict.text == "02 steps until half noise: value is 'half', expected a number."


def test_a_question_keeps_its_mark_and_gets_no_stop():
    assert check.answer("15 heads in the middle", 8).text.endswith("how many of that width fit?")


# ---- progress


def test_progress_is_kept_and_shown(record, capsys):
    check.q_sample(q_sample), check.loss(says_so), check.answer("01 grey level of 0", 128)
    day = json.loads(record.read_text())["q_sample"]
    assert recorded() == {"q_sample": day, "01 grey level of 0": day}
    capsys.readouterr()
    assert check.progress() is None
    shown = capsys.readouterr().out
    assert f"[x] 02  q_sample  {day}\n" in shown and "[ ] 04  loss\n" in shown and "[x] 01  grey level of 0" in shown
    assert shown.endswith(f"2 of {len(EXERCISES) + len(ANSWERS) + 1} done\n")


def test_the_first_day_stays(record):
    record.parent.mkdir()
    record.write_text('{"q_sample": "2026-01-02"}')
    check.q_sample(q_sample)
    assert recorded() == {"q_sample": "2026-01-02"}


def test_a_check_that_should_not_count_is_not_recorded(record):
    assert check.q_sample(q_sample, record=False) and check.answer("01 grey level of 0", 128, record=False)
    assert not record.exists()


@pytest.mark.parametrize("content", ["", "{", "[1]", "\xff"])
def test_a_damaged_record_counts_as_none(record, content):
    record.parent.mkdir()
    record.write_bytes(content.encode("latin-1"))
    assert recorded() == {} and check.q_sample(q_sample) and list(recorded()) == ["q_sample"]


def test_a_home_that_cannot_be_written_to_stops_nobody(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DDPM_COURSE_PROGRESS", str(tmp_path / "file" / "progress.json"))
    assert check.q_sample(q_sample) and recorded() == {}


def test_nothing_is_kept_where_the_variable_is_empty_and_the_home_is_used_where_it_is_not_set(monkeypatch, tmp_path):
    monkeypatch.setattr("pathlib.Path.expanduser", lambda path: tmp_path / str(path).removeprefix("~/"))
    monkeypatch.setenv("DDPM_COURSE_PROGRESS", "")
    assert check.q_sample(q_sample) and recorded() == {} and not list(tmp_path.iterdir())
    monkeypatch.delenv("DDPM_COURSE_PROGRESS")
    assert check.q_sample(q_sample) and (tmp_path / ".ddpm_course" / "progress.json").exists()


# ---- the reader's own DDPM

SOLUTION = Path(__file__).with_name("my_ddpm.py").read_text(encoding="utf-8")


@pytest.fixture
def write(tmp_path, monkeypatch):
    "Writes the reader's file, here with few steps to draw in; returns its path."
    monkeypatch.setattr(whole, "STEPS", 2)
    monkeypatch.setattr(whole, "show_images", lambda *given, **named: None)

    def written(text=SOLUTION):
        (tmp_path / "my_ddpm.py").write_text(text, encoding="utf-8")
        return tmp_path / "my_ddpm.py"
    return written


def test_every_piece_of_a_ddpm_of_ones_own_is_checked(write, record):
    verdict = check.my_ddpm(write(), train=False)
    assert verdict and verdict.text == f"my_ddpm: {len(whole.PIECES)} pieces are right."
    assert set(whole.PIECES) == set(recorded())


def test_a_ddpm_of_ones_own_is_trained_and_drawn(write, record):
    sure = lambda images: torch.linspace(0, 1, len(images))
    verdict = check.my_ddpm(write(), updates=3, judge=sure)
    assert verdict and "3 updates, loss " in verdict.text and "sure of 7 of your 64 digits, and of 7 " in verdict.text
    assert write().with_suffix(".png").stat().st_size > 10_000 and "my_ddpm" in json.loads(record.read_text())


def test_without_ddim_it_draws_with_ddpm_and_is_not_all_done(write, monkeypatch, record):
    monkeypatch.setattr(whole, "T", 4)
    assert check.my_ddpm(write(SOLUTION.replace("def ddim_move", "def other_move")), updates=2)
    assert "ddpm_sample" in (done := json.loads(record.read_text())) and "my_ddpm" not in done


@pytest.mark.parametrize("sampler", ["ddim_move", "ddpm_sample"])
def test_whatever_the_network_answers_the_images_stay_in_their_range(write, monkeypatch, sampler):
    module = whole._load(write(SOLUTION.replace(f"def {sampler}", "def other")))
    monkeypatch.setattr(whole, "T", 20)
    images = whole._draw(module, lambda x, t: torch.zeros_like(x))
    assert images.shape == (64, 1, 28, 28) and images.abs().max() < 1.001


@pytest.mark.parametrize("change, words", [
    (("(1 - a).sqrt() * noise", "(1 - a) * noise"), "these pieces are not right yet: q_sample, loss, train_step"),
    (("class UNet(", "class Net("), "10 pieces are right; training also needs UNet"),
    (("def cosine_betas", "def betas"), "9 pieces are right; training also needs cosine_betas"),
    (("def ddim_move", "def move"), "8 pieces are right; drawing also needs"),
    (("h = self.conv_in(F", "h = self.conv_at(F"), "of your code: h = self.conv_at(F.pixel_unshuffle(x, 2))"),
    (("import math", "import maths"), "stopped with ModuleNotFoundError: No module named 'maths'"),
    (("return F.pixel_shuffle(self.out(h), 2)", "return self.out(h)"), "with (2, 4, 14, 14), expected their"),
], ids=["piece", "UNet", "schedule", "sampler", "stops", "import", "shape"])
def test_what_a_ddpm_of_ones_own_still_needs(write, change, words):
    text = SOLUTION.replace(*change)
    if "move" in change[1]:
        text = text.replace("def ddpm_sample", "def draw")
    verdict = check.my_ddpm(write(text), updates=1)
    assert not verdict and words in verdict.text


def test_pieces_that_are_not_there_yet_are_listed(write):
    half = SOLUTION.partition("# ---- chapter 07")[0]
    verdict = check.my_ddpm(write(half), train=False)
    assert not verdict and "5 pieces are right; these are not there yet: ResBlock, attention, ddpm_s" in verdict.text


def test_a_file_that_is_not_there_is_named(tmp_path):
    assert not (verdict := check.my_ddpm(tmp_path / "none.py")) and "there is no file" in verdict.text
    with pytest.raises(ValueError, match="updates is 0, expected a whole number of 1 or more"):
        check.my_ddpm(tmp_path / "none.py", updates=0)


def test_weights_that_are_not_finite_are_named(write):
    verdict = check.my_ddpm(write(SOLUTION.replace("return error.item()", "return float('nan')")), updates=1)
    assert not verdict  # the piece is refused before
    assert "NaN" in whole._show(torch.full((64, 1, 28, 28), torch.nan), [1.0], write(), None, False).text
