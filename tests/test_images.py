"""Images from files: levels kept, squares cut, folders opened, some held out. test_data_files.py has the formats."""
import numpy as np
import pytest
import torch
from PIL import Image

from ddpm_course.data import ImageDataset, hold_out, load_digits, load_images, to_model_range
from ddpm_course.lib.images import fingerprint, fit, to_8_bit


@pytest.fixture
def numbered():
    "Twenty grey images in two classes, each filled with its own number."
    images = torch.arange(20, dtype=torch.uint8)[:, None, None, None].expand(20, 1, 4, 4).clone()
    return ImageDataset(images, torch.arange(20) % 2, ["even", "odd"], [("broken.jpg", "cannot identify")])


def numbers(data):
    return data.images[:, 0, 0, 0].tolist()


def test_sixteen_bits_are_rounded_to_the_nearest_of_256_levels():
    levels = np.array([[0, 257 * 50 - 100, 257 * 100, 257 * 200 + 100, 65535]], np.uint16)  # a shift by 8 bits is off
    assert np.asarray(to_8_bit(Image.fromarray(levels), 1)).tolist() == [[0, 50, 100, 200, 255]]


def test_black_ink_is_black():
    assert to_8_bit(Image.new("CMYK", (1, 1), (0, 0, 0, 255)), 3).getpixel((0, 0)) == (0, 0, 0)


@pytest.mark.parametrize("mode, value", [("F", 0.5), ("I", 2**16), ("I", -1)])
def test_pixels_whose_range_nobody_stated_are_refused(mode, value):
    with pytest.raises(ValueError, match=f"pixels of type '{mode}' have no stated range, expected 8 or 16 bits"):
        to_8_bit(Image.new(mode, (1, 1), value), 1)


def test_scaling_is_the_bicubic_filter_with_antialiasing_of_another_library():
    images = load_digits().images[:20]
    by_torch = torch.nn.functional.interpolate(images, size=16, mode="bicubic", antialias=True)
    fitted = np.stack([fit(Image.fromarray(digit[0].numpy()), 16) for digit in images])
    assert np.abs(fitted.astype(int) - by_torch.numpy()).max() <= 1


def test_fine_stripes_become_an_even_grey():
    stripes = Image.fromarray(np.tile(np.array([[0, 255]], np.uint8), (64, 32)))  # one pixel black, one white
    small = fit(stripes, 15)
    inner = small[:, :, 2:-2]
    assert small.shape == (1, 15, 15) and abs(inner.mean() - 127.5) < 3 and inner.std() < 3
    coarse = np.asarray(stripes.resize((15, 15), Image.Resampling.NEAREST))  # what the filter prevents
    assert coarse[0, :8].tolist() == [0] * 4 + [255] * 4


@pytest.mark.parametrize("upright", [False, True])
def test_the_middle_square_is_cut_out(upright):
    wide = np.zeros((20, 40, 3), np.uint8)
    wide[:, 10:30] = 255
    wide[:, 10, 1:] = 0  # its left edge is red
    image = Image.fromarray(wide.swapaxes(0, 1) if upright else wide)
    middle = fit(image, 20)  # (channels, rows, columns)
    middle = middle.swapaxes(1, 2) if upright else middle
    assert middle.shape == (3, 20, 20) and middle[:, :, 1:].min() == 255
    assert middle[0, :, 0].min() == 255 and middle[1:, :, 0].max() == 0
    assert fit(image, 10).shape == (3, 10, 10)


def test_the_digits_are_resampled_only_where_another_size_is_asked_for():
    test = load_digits("test")
    assert torch.equal(load_images("digits", image_size=28, channels=1, split="test").images, test.images)
    large = load_images("digits", image_size=32, channels=3, split="test")
    assert large.images.shape == (2000, 3, 32, 32) and torch.equal(large.labels, test.labels)
    assert large.classes == test.classes and torch.equal(large.images[:, 0], large.images[:, 2])


def test_a_flat_folder_has_no_classes(tmp_path):
    for i in range(3):
        Image.new("L", (20 + i, 30), 51 * i).save(tmp_path / f"{i}.png")
    for memory in (4, 0):
        flat = load_images(tmp_path, image_size=8, channels=1, memory=memory)
        assert flat.classes is None and flat.labels is None and flat.images.shape == (3, 1, 8, 8)
        image, label = flat[2]
        assert image.dtype == torch.float32 and label == 0
        assert torch.equal(image, to_model_range(torch.full((1, 8, 8), 102, dtype=torch.uint8)))


def test_without_a_word_one_file_in_ten_may_be_unreadable(tmp_path):
    for i in range(18):
        Image.new("L", (8, 8)).save(tmp_path / f"{i}.png")
    for i in range(2):
        (tmp_path / f"broken {i}.png").touch()
    assert len(load_images(tmp_path, image_size=8, channels=1).skipped) == 2
    (tmp_path / "broken 2.png").touch()
    with pytest.raises(ValueError, match="3 of 21 images cannot be read, expected at most 10%"):
        load_images(tmp_path, image_size=8, channels=1)


def test_a_folder_without_images(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"no images in '.*', expected files ending in \.jpg "):
        load_images(tmp_path, image_size=8, channels=1)


def test_held_out_images_are_chosen_by_the_seed(numbered):
    kept, held_out = hold_out(numbered, 0.25, seed=0)
    assert len(held_out) == 5 and sorted(numbers(kept) + numbers(held_out)) == list(range(20))
    for part in (kept, held_out):  # in their old order, each with its own label
        assert numbers(part) == sorted(numbers(part)) and part.labels.tolist() == [n % 2 for n in numbers(part)]
        assert part.classes == ["even", "odd"]
    assert kept.skipped == numbered.skipped and held_out.skipped == []
    assert numbers(hold_out(numbered, 0.25, seed=0)[1]) == numbers(held_out) != numbers(hold_out(numbered, 0.25, 1)[1])
    assert len(hold_out(numbered, 0.049, seed=0)[1]) == 0  # 0.98 of an image: rounded down
    assert hold_out(ImageDataset(numbered.images), 0.25, seed=0)[1].labels is None


def test_the_fingerprint_sees_pixels_labels_and_shape(numbered):
    same = ImageDataset(numbered.images.clone(), numbered.labels.clone(), ["other", "names"])
    assert fingerprint(same) == fingerprint(numbered)
    changed = numbered.images.clone()
    changed[0, 0, 0, 0] += 1
    others = [ImageDataset(changed, numbered.labels), ImageDataset(numbered.images, 1 - numbered.labels),
              ImageDataset(numbered.images), ImageDataset(numbered.images.view(20, 1, 2, 8), numbered.labels)]
    assert len({fingerprint(data) for data in [numbered, *others]}) == 5
