import pickle
import time
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from timm.data import create_transform, resolve_model_data_config

from lightning_ood.errors import InputError
from lightning_ood.networks import preprocess
from lightning_ood.networks.preprocess import Preprocess

CIFAR = {"size": 32, "mean": (0.4914, 0.4822, 0.4465), "std": (0.2023, 0.1994, 0.2010)}


def _image(height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("size", [(300, 400), (500, 257), (90, 60)])
@pytest.mark.parametrize(
    "name", ["resnet18", "vit_tiny_patch16_224", "tf_efficientnetv2_b0", "vit_base_patch16_siglip_224"]
)
def test_equals_timm(name: str, size: tuple[int, int]) -> None:
    # siglip stretches the image to a square ("squash"), the others crop
    network = (
        timm.create_model(name) if "base" not in name else timm.create_model(name, embed_dim=24, depth=1, num_heads=2)
    )
    theirs = create_transform(**resolve_model_data_config(network), is_training=False)
    assert torch.equal(Preprocess.from_timm(network).transform()(_image(*size)), theirs(_image(*size)))


@pytest.mark.parametrize("size", [(300, 400), (500, 257), (90, 60)])
@pytest.mark.parametrize(
    "weights",
    [
        torchvision.models.ResNet50_Weights.IMAGENET1K_V1,
        torchvision.models.ResNet50_Weights.IMAGENET1K_V2,
        torchvision.models.ViT_B_16_Weights.IMAGENET1K_SWAG_E2E_V1,
        torchvision.models.Swin_T_Weights.DEFAULT,
    ],
)
def test_equals_torchvision(weights: Any, size: tuple[int, int]) -> None:
    ours = Preprocess.from_torchvision(weights).transform()(_image(*size))
    assert torch.equal(ours, weights.transforms()(_image(*size)))


@pytest.mark.parametrize("size", [(300, 400), (500, 257), (21, 330), (330, 21), (40, 33)])
def test_of_a_long_image_the_part_that_the_crop_keeps_is_resized(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pixels are those of a resize of the whole, up to the rounding of one 8-bit step."""
    made = Preprocess((44, 40), 48, "bilinear", (0.0,) * 3, (1.0,) * 3).transform()
    whole = made(_image(*size))
    monkeypatch.setattr(preprocess, "LARGEST", 0)
    torch.testing.assert_close(made(_image(*size)), whole, atol=1.001 / 255, rtol=0)


@pytest.mark.parametrize("size", [(1, 30000), (30000, 1)])
def test_an_absurdly_long_image_costs_no_more_than_another(size: tuple[int, int]) -> None:
    began = time.process_time()
    assert Preprocess((224, 224), 256, "bicubic", (0.5,) * 3, (0.5,) * 3).transform()(_image(*size)).std() > 0
    assert time.process_time() - began < 1  # 38 s and 8.9 GB for the whole


def test_image_of_the_right_size_keeps_its_pixels() -> None:
    image = _image(32, 32)
    pixels = torch.from_numpy(np.asarray(image).astype(np.float64) / 255)
    expected = (pixels - torch.tensor(CIFAR["mean"])) / torch.tensor(CIFAR["std"])
    ours = Preprocess.of(**CIFAR).transform()(image)
    torch.testing.assert_close(ours, expected.permute(2, 0, 1).float())


def test_larger_image_is_resized_by_pil_bilinear() -> None:
    image = _image(64, 64)
    plain = {"size": 32, "mean": (0, 0, 0), "std": (1, 1, 1)}
    expected = np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR)).transpose(2, 0, 1) / 255
    np.testing.assert_allclose(Preprocess.of(**plain).transform()(image).numpy(), expected, atol=1e-7)


def test_override() -> None:
    base = Preprocess((224, 224), 256, "bicubic", (0.5,) * 3, (0.5,) * 3)
    assert base.override() == base
    assert base.override(size=32) == Preprocess((32, 32), 32, "bicubic", (0.5,) * 3, (0.5,) * 3)
    assert base.override(size=[32, 64]).resize == (32, 64)
    assert base.override(size=288, resize=320).resize == 320
    assert base.override(resize=None).resize is None
    assert base.override(mean=[0, 0, 1], interpolation="bilinear").mean == (0.0, 0.0, 1.0)
    assert pickle.loads(pickle.dumps(base.transform()))(_image(300, 300)).shape == (3, 224, 224)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sizes": 3}, "no 'sizes'; it has size, resize, interpolation, mean, std"),
        ({"size": "big"}, "'big' is no size"),
        ({"size": [1, 2, 3]}, r"\[1, 2, 3\] is no size"),
        ({"size": 0}, "must be positive"),
        ({"resize": 0.5}, "0.5 is no size"),
        ({"resize": 0}, "resize 0 and .* must be positive"),
        ({"mean": 0.5}, "mean 0.5 is no list of numbers"),
        ({"std": [1, 1]}, "a value for each of 3 channels"),
        ({"std": [0, 1, 1]}, "must be positive"),
        ({"interpolation": "cubic"}, "'cubic' is none of nearest"),
    ],
)
def test_bad_values_are_told(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Preprocess.of(**CIFAR).override(**changes)


def test_incomplete_description_and_unknown_crop_are_told() -> None:
    with pytest.raises(InputError, match="mean, std is not given"):
        Preprocess.of(size=32)
    config = {"input_size": (3, 8, 8), "mean": (0, 0, 0), "std": (1, 1, 1), "crop_mode": "border"}
    with pytest.raises(InputError, match="crop_mode 'border'"):
        Preprocess.from_config(config)
