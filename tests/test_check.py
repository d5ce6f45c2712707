"""What looks at the reader's code: a stub is refused politely, a right answer passes, a likely mistake is named."""
import inspect
import json

import pytest
import torch
from torch import Tensor

from ddpm_course import check, data, forward, objective
from ddpm_course.check.answers import ANSWERS

EXERCISES = check.EXERCISES


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


MISTAKES = [(name, sentence) for name, each in EXERCISES.items() for sentence in each.mistakes]


@pytest.mark.parametrize("name, sentence", MISTAKES)
def test_each_anticipated_mistake_is_named(name, sentence, record, capsys):
    verdict = EXERCISES[name](EXERCISES[name].mistakes[sentence])
    assert not verdict and verdict.mistake == sentence and verdict.text == f"{name}: {sentence}."
    assert capsys.readouterr().out == verdict.text + "\n" and not record.exists()


@pytest.mark.parametrize("name", EXERCISES)
def test_an_exercise_knows_three_mistakes_or_more_and_is_offered_by_its_name(name):
    assert len(EXERCISES[name].mistakes) >= 3 and getattr(check, name) is EXERCISES[name]
    assert EXERCISES[name].chapter in {f"{n:02}" for n in range(1, 15)}


def says_so(*given, **named):
    raise NotImplementedError("your turn")


@pytest.mark.parametrize("name", EXERCISES)
@pytest.mark.parametrize("stub", [says_so, lambda *given: None, lambda *given: ...], ids=["raises", "None", "..."])
def test_a_stub_is_not_written_yet(name, stub, record):
    verdict = EXERCISES[name](stub)
    assert not verdict and verdict.mistake is None and not record.exists()
    assert verdict.text.startswith(f"{name}: not written yet. It is {name}(")


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


def test_a_missing_part_is_named():
    assert "it returns one thing, expected 2 things: mean, variance" in check.q_posterior(lambda x0, *_: x0).text


def test_a_posterior_variance_may_have_the_shape_that_torch_stretches():
    def mine(x0, x_t, t, betas):
        schedule = forward.NoiseSchedule(betas)
        return schedule.q_posterior(x0, x_t, t).mean, schedule.posterior_variance[t].view(-1, 1, 1, 1)
    assert check.q_posterior(mine)
    assert not check.q_posterior(lambda *given: (mine(*given)[0], mine(*given)[1].flatten()))


def schedule_of(alpha_bar: Tensor) -> forward.NoiseSchedule:
    return forward.NoiseSchedule(1 - torch.cat([alpha_bar[:1], alpha_bar[1:] / alpha_bar[:-1]]).double())


def course_loss(model, x0, t, noise, alpha_bar):
    denoiser = objective.Denoiser(lambda x, t, y: model(x, t), schedule_of(alpha_bar), shape=x0.shape[1:])
    return objective.diffusion_loss(denoiser, x0, t, noise).mean()


def course_posterior(x0, x_t, t, betas):
    posterior = forward.NoiseSchedule(betas).q_posterior(x0, x_t, t)
    return posterior.mean, posterior.variance


COURSE = {
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


def test_an_unknown_question_is_refused_by_name():
    with pytest.raises(ValueError, match="name is '02 half', expected one of"):
        check.answer("02 half", 3)


# ---- progress


def test_progress_is_kept_and_shown(record, capsys):
    assert check.progress() == {}
    check.q_sample(q_sample), check.loss(says_so), check.answer("01 grey level of 0", 128)
    day = json.loads(record.read_text())["q_sample"]
    assert check.progress() == {"q_sample": day, "01 grey level of 0": day}
    shown = capsys.readouterr().out
    assert f"[x] 02  q_sample  {day}\n" in shown and "[ ] 04  loss\n" in shown and "[x] 01  grey level of 0" in shown
    assert shown.endswith(f"2 of {len(EXERCISES) + len(ANSWERS)} done\n")


def test_the_first_day_stays(record):
    record.parent.mkdir()
    record.write_text('{"q_sample": "2026-01-02"}')
    check.q_sample(q_sample)
    assert check.progress() == {"q_sample": "2026-01-02"}


def test_a_check_that_should_not_count_is_not_recorded(record):
    assert check.q_sample(q_sample, record=False) and check.answer("01 grey level of 0", 128, record=False)
    assert not record.exists()


@pytest.mark.parametrize("content", ["", "{", "[1]", "\xff"])
def test_a_damaged_record_counts_as_none(record, content):
    record.parent.mkdir()
    record.write_bytes(content.encode("latin-1"))
    assert check.progress() == {} and check.q_sample(q_sample) and list(check.progress()) == ["q_sample"]


def test_a_home_that_cannot_be_written_to_stops_nobody(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DDPM_COURSE_PROGRESS", str(tmp_path / "file" / "progress.json"))
    assert check.q_sample(q_sample) and check.progress() == {}


def test_nothing_is_kept_where_the_variable_is_empty_and_the_home_is_used_where_it_is_not_set(monkeypatch, tmp_path):
    monkeypatch.setattr("pathlib.Path.expanduser", lambda path: tmp_path / str(path).removeprefix("~/"))
    monkeypatch.setenv("DDPM_COURSE_PROGRESS", "")
    assert check.q_sample(q_sample) and check.progress() == {} and not list(tmp_path.iterdir())
    monkeypatch.delenv("DDPM_COURSE_PROGRESS")
    assert check.q_sample(q_sample) and (tmp_path / ".ddpm_course" / "progress.json").exists()
