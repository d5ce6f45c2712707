"""The README of a model folder."""
from small_models import small_denoiser

from ddpm_course.formats.model_card import model_card
from ddpm_course.formats.model_folder import count_parameters, describe
from ddpm_course.forward import NoiseSchedule
from ddpm_course.hub import save_pretrained
from ddpm_course.schedules import make_schedule


def card_of(denoiser, facts):
    return model_card(describe(denoiser), count_parameters(denoiser.model), "tiny", facts)


def test_the_card_says_how_to_load_the_model_and_what_it_is():
    card = card_of(small_denoiser(), {})
    assert card.startswith("---\nlibrary_name: ddpm_course\n") and "\n# tiny\n" in card and "(1, 8, 8)" in card
    assert "load_pretrained('tiny')" in card and "ddim_sample" in card
    for row in ("parameters | 45,097", "prediction | v", "schedule | cosine, T = 100", "base_channels | 8",
                "channel_mults | (1, 2)", "num_classes | 3"):
        assert f"\n| {row} |\n" in card


def test_facts_have_their_places_and_gaps_are_seen():
    card = card_of(small_denoiser(), {"data": "none, the weights are random", "limits": "draws noise"})
    heads = ("Data and licence", "Hyper-parameters", "Metrics, with uncertainty and seeds", "Limits")
    assert [line[3:] for line in card.splitlines() if line.startswith("## ")] == list(heads)
    tables = dict(zip(heads, card.split("\n## ")[1:]))
    assert "\n| data | none, the weights are random |\n" in tables[heads[0]]
    assert "\n| limits | draws noise |\n" in tables["Limits"]
    for head, names in {heads[0]: ("licence of the data", "licence of the weights"), heads[1]: ("training",),
                        heads[2]: ("metrics",)}.items():
        for name in names:
            assert f"\n| {name} | not stated |\n" in tables[head]
    assert card.count("not stated") == 4


def test_other_facts_stand_at_the_end_and_keep_the_table_whole():
    card = card_of(small_denoiser(), {"a note": "one | two\nthree", "data": "none"})
    assert card.endswith("\n## More\n\n| | |\n|---|---|\n| a note | one \\| two three |\n")


def test_the_schedule_is_named_as_it_is():
    linear = make_schedule("linear", 50)
    for schedule, row in ((linear, "linear, T = 50"),
                          (make_schedule("linear", 50, zero_terminal_snr=True), "linear, zero terminal SNR, T = 50"),
                          (NoiseSchedule(0.9 * linear.exact_betas), "its own betas, T = 50")):
        assert f"\n| schedule | {row} |\n" in card_of(small_denoiser(schedule=schedule), {})


def test_the_code_on_the_card_draws(tmp_path, monkeypatch):
    save_pretrained(small_denoiser(), tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec((tmp_path / "tiny" / "README.md").read_text().split("```")[1].removeprefix("python"), names)
    assert names["images"].shape == (16, 1, 8, 8) and names["images"].abs().max() <= 1
