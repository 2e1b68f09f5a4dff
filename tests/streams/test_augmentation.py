import torch

from lightning_plasticity.streams.augmentation import flip_crop_rotate


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_half_of_the_images_are_flipped():
    images = torch.rand(400, 3, 4, 6)
    out = flip_crop_rotate(images, generator(), padding=0, degrees=0.0)
    flipped = (out == images.flip(3)).all(3).all(2).all(1)
    assert torch.equal(out[~flipped], images[~flipped])
    assert 0.4 < flipped.float().mean() < 0.6  # four standard deviations


def test_every_shift_up_to_the_padding_comes_as_often():
    image = torch.arange(64.0).view(1, 1, 8, 8).expand(3000, -1, -1, -1)
    out = flip_crop_rotate(image, generator(), padding=2, degrees=0.0)
    centre = out[:, 0, 4, 4].long()  # where no reflection reaches
    unflipped = out[:, 0, 4, 5] > out[:, 0, 4, 4]
    rows, columns = centre[unflipped] // 8 - 4, centre[unflipped] % 8 - 4
    counts = torch.zeros(5, 5)
    for row, column in zip(rows, columns, strict=True):
        counts[row + 2, column + 2] += 1
    assert counts.min() > 0.5 * counts.mean()
    assert counts.max() < 1.5 * counts.mean()


def test_padding_reflects_and_rotation_leaves_zeros_in_the_corners():
    ones = torch.ones(50, 1, 9, 9)
    assert torch.equal(flip_crop_rotate(ones, generator(), padding=4, degrees=0.0), ones)
    turned = flip_crop_rotate(ones, generator(), padding=0, degrees=45.0)
    corners = turned[:, 0, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert (corners == 0).any()
    assert (turned[:, 0, 4, 4] == 1).all()


def test_rotation_is_to_one_side_by_at_most_the_angle():
    image = torch.zeros(300, 1, 41, 41)
    image[:, 0, 20, 20:] = 1  # a ray to the right; flipped ones point to the left
    out = flip_crop_rotate(image, generator(3), padding=0, degrees=15.0)
    for picture in out[:, 0]:
        rows, columns = (picture[:, [2, 38]] > 0).nonzero().unbind(1)
        assert len(rows) >= 1
        tilt = (rows - 20) * (2 * columns - 1)  # seen from the centre, along the ray
        assert tilt.min() >= -6
        assert tilt.max() <= 0 or tilt.min() >= 0


def test_the_generator_alone_decides():
    images = torch.rand(8, 3, 8, 8)
    a, b, c = (flip_crop_rotate(images, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
