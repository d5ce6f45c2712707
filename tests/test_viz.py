"""Pictures that can be trusted: every pixel of a grid, of a PNG and of a GIF is the one that was given."""
import errno
import html
import re
import sys
from base64 import b64decode
from io import BytesIO
from unittest import mock

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from ddpm_course.data import to_model_range, to_uint8
from ddpm_course.lib.viz import grid, plot_loss, save_gif, save_grid, show_images, to_pixels, with_slider, with_sliders

STEPS = list(range(0, 2001, 50))
LOSSES = [0.05 + 0.95 * float(np.exp(-step / 100)) for step in STEPS]


@pytest.fixture
def images():
    "Ten grey images of noise; a few of their numbers lie outside [-1, 1], as those of samples do."
    return 0.5 * torch.randn(10, 1, 28, 28, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def no_figure_is_left_open():
    before = plt.get_fignums()
    yield
    assert plt.get_fignums() == before


def enlarged(pixels, scale):
    return pixels.repeat(scale, axis=0).repeat(scale, axis=1)


def test_numbers_are_clipped_and_rounded_to_pixels():
    numbers = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0]).view(1, 1, 1, 5)
    assert to_pixels(numbers)[0, 0, :, 0].tolist() == [0, 0, 128, 255, 255]


def test_all_grey_levels_come_back_from_the_models_range():
    levels = torch.arange(256).to(torch.uint8).view(1, 1, 16, 16)
    assert (to_pixels(to_model_range(levels))[0, :, :, 0] == levels[0, 0].numpy()).all()


def test_colours_keep_their_place_and_their_channel():
    colour = torch.arange(2 * 3 * 4 * 5).view(2, 3, 4, 5).to(torch.uint8)
    pixels = to_pixels(colour)
    assert pixels.dtype == np.uint8 and pixels.shape == (2, 4, 5, 3)
    assert all((pixels[:, :, :, c] == colour[:, c].numpy()).all() for c in range(3))


def test_grey_images_have_three_equal_channels_as_chapter_1_makes_one(images):
    pixels = to_pixels(images)
    assert pixels.dtype == np.uint8 and pixels.shape == (10, 28, 28, 3)
    assert (pixels == to_uint8(images)[:, 0, :, :, None].numpy()).all()


@pytest.mark.parametrize("change", [lambda x: x.clone().requires_grad_(), lambda x: x.double()])
def test_images_with_a_gradient_or_of_another_precision_look_the_same(images, change):
    assert (to_pixels(change(images)) == to_pixels(images)).all()


def test_every_pixel_of_a_grid_is_known():
    five = torch.stack([torch.full((1, 2, 3), 10 * i, dtype=torch.uint8) for i in range(5)])  # image i in grey 10 i
    layout = grid(five, columns=3, pad=1)
    W = 255
    expected = [[W, W, W, W, W, W, W, W, W, W, W, W, W],
                [W, 0, 0, 0, W, 10, 10, 10, W, 20, 20, 20, W],
                [W, 0, 0, 0, W, 10, 10, 10, W, 20, 20, 20, W],
                [W, W, W, W, W, W, W, W, W, W, W, W, W],
                [W, 30, 30, 30, W, 40, 40, 40, W, W, W, W, W],
                [W, 30, 30, 30, W, 40, 40, 40, W, W, W, W, W],
                [W, W, W, W, W, W, W, W, W, W, W, W, W]]
    assert layout.dtype == np.uint8 and layout.shape == (7, 13, 3)
    assert all((layout[:, :, channel] == expected).all() for channel in range(3))


@pytest.mark.parametrize("n, columns, shape", [
    (5, None, (2 * 30 + 2, 3 * 30 + 2, 3)), (9, None, (3 * 30 + 2, 3 * 30 + 2, 3)), (10, 10, (32, 302, 3))])
def test_a_grid_is_as_square_as_it_goes_unless_columns_are_given(images, n, columns, shape):
    assert grid(images[:n], columns).shape == shape


def test_one_image_without_padding_is_the_image(images):
    assert (grid(images[:1], pad=0) == to_pixels(images)[0]).all()


def test_a_png_holds_the_pixels_of_the_grid_each_enlarged_by_repetition(images, tmp_path):
    save_grid(images, tmp_path / "noise.png", columns=5, scale=3)
    with Image.open(tmp_path / "noise.png") as picture:
        assert picture.format == "PNG" and picture.mode == "RGB"
        back = np.asarray(picture)
    assert back.shape == (3 * 62, 3 * 152, 3) and (back == enlarged(grid(images, columns=5), 3)).all()


def test_images_are_shown_in_rows_with_their_titles(images):
    titles = [f"t = {t}" for t in range(6)]
    figure = show_images(images[:6], titles=titles, size=1.1)
    assert [axis.get_title() for axis in figure.axes] == titles
    assert all((axis.images[0].get_array() == pixels).all() for axis, pixels in zip(figure.axes, to_pixels(images)))
    assert not any(axis.axison for axis in figure.axes) and figure.get_size_inches() == pytest.approx((6.6, 1.35))
    plt.close(figure)


def test_twelve_images_make_two_rows_of_ten_places_of_which_eight_stay_empty():
    figure = show_images(torch.zeros(12, 3, 4, 4))
    assert len(figure.axes) == 20 and [len(axis.images) for axis in figure.axes] == [1] * 12 + [0] * 8
    assert not any(axis.axison for axis in figure.axes) and tuple(figure.get_size_inches()) == (8.0, 1.6)
    plt.close(figure)


def test_images_are_shown_in_as_many_columns_as_are_asked_for():
    figure = show_images(torch.zeros(3, 3, 4, 4), columns=1)
    assert len(figure.axes) == 3 and figure.axes[0].get_subplotspec().get_gridspec().get_geometry() == (3, 1)
    plt.close(figure)


def read_gif(path):
    "The frames of a GIF as uint8 arrays, their durations in ms, and how often it plays (0: for ever)."
    with Image.open(path) as gif:
        frames, durations = [], []
        for i in range(gif.n_frames):
            gif.seek(i)
            frames.append(np.asarray(gif.convert("RGB")))
            durations.append(gif.info["duration"])
        return np.stack(frames), durations, gif.info["loop"]


def test_a_gif_holds_grey_frames_exactly_and_its_last_one_longest(images, tmp_path):
    batches = [images[i:i + 4] for i in range(5)]
    save_gif(iter(batches), tmp_path / "noise.gif", fps=12, hold=1.5)
    frames, durations, loop = read_gif(tmp_path / "noise.gif")
    assert durations == [80, 80, 80, 80, 1500] and loop == 0  # GIF counts hundredths of a second: 83 ms become 80
    assert (frames == np.stack([enlarged(grid(batch), 2) for batch in batches])).all()


def test_equal_frames_of_a_gif_are_one_that_lasts_longer(images, tmp_path):
    a, b, c = images[:4], images[3:7], images[6:]
    save_gif([a, b, b, c], tmp_path / "twins.gif", fps=10, scale=1)
    frames, durations, _ = read_gif(tmp_path / "twins.gif")
    assert durations == [100, 200, 2000] and (frames == np.stack([grid(a), grid(b), grid(c)])).all()


def test_the_loss_is_drawn_against_the_step_on_a_logarithmic_axis():
    figure = plot_loss(STEPS, LOSSES)
    (axis,) = figure.axes
    (line,) = axis.lines
    assert line.get_xdata().tolist() == STEPS and line.get_ydata().tolist() == LOSSES
    assert axis.get_yscale() == "log" and axis.get_title() == "Training loss"
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("training step", "mean squared error")
    plt.close(figure)


def test_a_loss_curve_with_a_path_is_written_and_closed(tmp_path):
    plot_loss(STEPS, LOSSES, tmp_path / "loss.png")
    with Image.open(tmp_path / "loss.png") as picture:
        assert picture.format == "PNG" and picture.size == (600, 350)
        assert len(np.unique(np.asarray(picture.convert("L")))) > 10  # there is something on it


@pytest.mark.parametrize("write", [
    save_grid, lambda images, path: save_gif([images], path), lambda images, path: plot_loss(STEPS, LOSSES, path)],
    ids=["grid", "gif", "loss"])
def test_a_full_disk_keeps_the_picture_that_was_there_and_is_told_with_its_name(images, tmp_path, write):
    (tmp_path / "picture").write_bytes(b"old")
    with (mock.patch("os.fsync", side_effect=OSError(errno.ENOSPC, "No space left on device")),
          pytest.raises(OSError) as caught):
        write(images, tmp_path / "picture")
    assert str(caught.value).endswith(f"No space left on device: {str(tmp_path / 'picture')!r}")
    assert [p.name for p in tmp_path.iterdir()] == ["picture"] and (tmp_path / "picture").read_bytes() == b"old"


def write_number(panel, *values):
    panel.text(0.5, 0.5, " and ".join(map(str, values)))


def words(figure):
    "What stands on each panel of a strip."
    return [[text.get_text() for text in panel.texts] for panel in figure.subfigs]


def shade(panel, level, *others):
    panel.set_facecolor(str(level))


def test_a_slider_changes_its_picture_and_has_a_label():
    ipywidgets = pytest.importorskip("ipywidgets")
    with mock.patch("IPython.display.display") as display:
        slider, picture = with_slider(shade, "level", [0.0, 0.25, 1.0], 0.25).children
    plt.close(display.call_args.args[0])
    assert isinstance(slider, ipywidgets.SelectionSlider) and slider.description == slider.tooltip == "level"
    for value, grey in ((0.25, 64), (1.0, 255), (0.0, 0)):
        slider.value = value
        form = (rf'<img alt="The picture at level = {value:g}" width="256" onload="([^"]+)" '
                r'src="data:image/png;base64,([^"]+)"><div role="status" hidden>The picture waits [^<]+</div>')
        script, data = re.fullmatch(form, picture.value).groups()
        assert "'aria-label'" in html.unescape(script)  # what it does is tried in a browser, by read_in_browser.py
        with Image.open(BytesIO(b64decode(data))) as png:
            assert (np.asarray(png.convert("L")) == grey).all()


def test_a_frame_is_drawn_once():
    pytest.importorskip("ipywidgets")
    draw = mock.Mock()
    with mock.patch("IPython.display.display") as display:
        t, x = with_sliders(draw, {"t": range(3), "x": [1.5, 2.5]}, (0, 1.5), [(2, 2.5)]).children[:2]
    plt.close(display.call_args.args[0])
    for now in ((1, 2.5), (0, 1.5), (1, 2.5)):
        t.value, x.value = now
    drawn = [call.args[1:] for call in draw.call_args_list]
    assert drawn == [(2, 2.5), (0, 1.5), (1, 1.5), (1, 2.5), (0, 2.5)]  # the strip, the start, one knob after the other


def test_frames_are_drawn_ahead_where_that_is_asked_for():
    pytest.importorskip("ipywidgets")
    draw = mock.Mock()
    with mock.patch("IPython.display.display") as display:
        t, x = with_sliders(draw, {"t": range(3), "x": "ab"}, (1, "b"), [(2, "a")], ahead=True).children[:2]
        assert len(draw.call_args_list) == 1 + 3 * 2  # the strip, and each place once
        with_slider(draw, "u", range(4), 0, positions=[3], ahead=True)
    for call in display.call_args_list:
        plt.close(call.args[0])
    t.value, x.value = 0, "a"
    assert len(draw.call_args_list) == 1 + 3 * 2 + 1 + 4


def test_sliders_show_a_static_strip_in_the_same_output():
    pytest.importorskip("ipywidgets")
    with mock.patch("IPython.display.display") as display:
        with_slider(write_number, "t", range(0, 101), 50)
    (strip,) = display.call_args.args
    assert words(strip) == [["0"], ["25"], ["50"], ["75"], ["100"]] and strip.get_facecolor() == (1, 1, 1, 1)
    plt.close(strip)


def test_without_ipywidgets_the_strip_is_shown_alone():
    with mock.patch.dict(sys.modules, {"ipywidgets": None}):
        strip = with_sliders(write_number, {"t": [1, 2], "x": "ab"}, (1, "a"), [(1, "a"), (2, "b")], size=(3, 2))
    assert words(strip) == [["1 and a"], ["2 and b"]] and tuple(strip.get_size_inches()) == (6, 2)
    plt.close(strip)


@pytest.mark.parametrize("start, positions, message", [
    ((7,), [(1,)], "t is 7, expected one of the 3 values of its slider"),
    ((1,), [(1,), (9,)], "t is 9, expected one of the 3 values of its slider"),
    ((1, 2), [(1,)], r"a position is \(1, 2\), expected one value for each of \('t',\)")])
def test_positions_that_a_slider_does_not_have_are_refused(start, positions, message):
    with pytest.raises(ValueError, match=message):
        with_sliders(write_number, {"t": range(3)}, start, positions)
