"""A transform for samples: images are denoised, everything else passes through."""

from __future__ import annotations

import pickle
from collections import defaultdict, namedtuple

import numpy as np
import pytest
import torch
from PIL import Image

from denoise_ext import Denoiser
from denoise_ext._loader import native_error
from denoise_ext.integrations.torchvision import Denoise

pytestmark = pytest.mark.skipif(native_error() is not None, reason="needs the native library")
Sample = namedtuple("Sample", "image label")


def noisy(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return 0.5 + 0.1 * torch.randn(*shape, generator=generator)


@pytest.fixture(scope="module")
def denoiser() -> Denoiser:
    return Denoiser("dxnet_s", sigma=25, precision="strict")


@pytest.mark.parametrize("shape", [(3, 40, 48), (1, 40, 48), (2, 3, 40, 48), (2, 2, 1, 40, 48)])
def test_tensors_of_every_shape(denoiser, shape):
    x = noisy(*shape)
    y = Denoise(denoiser)(x)
    assert (y.shape, y.dtype, type(y)) == (x.shape, x.dtype, torch.Tensor)
    first = denoiser(x.reshape(-1, *shape[-3:])[0])
    assert float((y.reshape(-1, *shape[-3:])[0] - first).abs().max()) < 1e-6


def test_integers_stay_integers(denoiser):
    x = (255 * noisy(3, 40, 48)).clamp(0, 255).to(torch.uint8)
    assert torch.equal(Denoise(denoiser)(x), denoiser(x))


@pytest.mark.parametrize("wrapped", [list, tuple, dict, Sample])
def test_the_structure_stays(denoiser, wrapped):
    x, other, label = noisy(3, 40, 48), torch.rand(3, 4, 4), torch.tensor(7)
    values = {"a": x, "b": {"c": other}, "d": "cat"} if wrapped is dict else [x, [other], "cat"]
    sample = Sample(x, label) if wrapped is Sample else wrapped(values)
    found = Denoise(denoiser)(sample)
    assert type(found) is type(sample)
    if wrapped is Sample:
        assert torch.equal(found.image, denoiser(x)) and found.label is label
        return
    first, second = (found["a"], found["b"]["c"]) if wrapped is dict else (found[0], found[1][0])
    assert torch.equal(first, denoiser(x))
    assert second is other  # the first plain tensor is the image


def test_several_arguments_give_a_tuple(denoiser):
    x = noisy(1, 40, 48)
    found = Denoise(denoiser)(x, 7)
    assert type(found) is tuple and found[1] == 7 and torch.equal(found[0], denoiser(x))


def test_pillow_images_come_before_tensors(denoiser):
    photo = Image.fromarray((255 * noisy(40, 48)).byte().numpy())
    mask = noisy(1, 40, 48)
    found = Denoise(denoiser)({"photo": photo, "mask": mask})
    assert found["mask"] is mask
    assert np.array_equal(np.asarray(found["photo"]), np.asarray(denoiser(photo)))


def test_it_is_a_module_that_other_processes_take(denoiser):
    transform = torch.nn.Sequential(Denoise(denoiser))
    assert not list(transform.parameters())
    x = noisy(1, 40, 48)
    assert torch.equal(pickle.loads(pickle.dumps(transform))(x), transform(x))


def test_bad_images_are_refused(denoiser):
    for x, words in ((torch.rand(4, 4), "(4, 4)"), (torch.rand(7, 9, 9), "7")):
        with pytest.raises(ValueError) as raised:
            Denoise(denoiser)(x)
        assert words in str(raised.value)


def test_with_torchvision_itself(denoiser):
    pytest.importorskip("torchvision", reason="needs torchvision")
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    x = noisy(3, 40, 48)
    image, mask = tv_tensors.Image(x), tv_tensors.Mask(torch.ones(1, 40, 48))
    boxes = tv_tensors.BoundingBoxes([[0, 0, 9, 9]], format="XYXY", canvas_size=(40, 48))
    plain = torch.rand(3, 4, 4)
    pipeline = v2.Compose([Denoise(denoiser), v2.CenterCrop((40, 48))])
    found = pipeline({"plain": plain, "image": image, "mask": mask, "boxes": boxes, "label": 3})
    assert type(found["image"]) is tv_tensors.Image and type(found["mask"]) is tv_tensors.Mask
    assert torch.equal(found["image"].as_subclass(torch.Tensor), denoiser(x))
    assert torch.equal(found["mask"], mask) and torch.equal(found["boxes"], boxes)
    assert torch.equal(found["plain"], plain) and found["label"] == 3
    video = tv_tensors.Video(noisy(2, 3, 40, 48))
    assert type(Denoise(denoiser)(video)) is tv_tensors.Video


def test_dictionaries_keep_what_they_have_besides(denoiser):
    x = noisy(1, 40, 48)
    sample = defaultdict(list, image=x)
    found = Denoise(denoiser)(sample)
    assert type(found) is defaultdict and found["other"] == [] and "other" not in sample
    assert torch.equal(found["image"], denoiser(x)) and sample["image"] is x
