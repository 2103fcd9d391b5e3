"""Vision models of other libraries as encoders: `transformers` and `timm`, from local files only."""

import inspect
import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from glimpse.errors import MissingExtraError, SettingsError
from glimpse.networks.adapters import Trainable
from glimpse.networks.modules import IMAGENET_MEAN, IMAGENET_STD, EncoderError, ModuleEncoder


class HuggingFaceEncoder(ModuleEncoder):
    """A vision model of Hugging Face `transformers` (ViT, DINOv2, ConvNeXt, ...), for planes of 1 or 3 channels.

    Normalisation: that of the model's `preprocessor_config.json`, or that of ImageNet where there is none. Input size:
    any; position embeddings are interpolated. Resolution: that of the images which the model was trained on, as its
    card says (Phikon: 0.5 micrometres per pixel). The stride is that of the model: the side of its patches, or 32 of a
    ConvNeXt or ResNet. Class and register tokens are left out.

    Nothing is downloaded: `name` is a folder, or a model that was downloaded before
    (`huggingface-cli download <name>`).

    Args:
        channels: channels of the images, 1 or 3.
        ndim: dimensions of the images, which must be 2.
        name: folder of the model, or its name on the hub.
        background: pixel value outside the image; pretraining uses it to augment glimpses.
        trainable: which of the weights train: 0 for none, a number for so many of the last blocks, or "all".
        lora_rank: rank of low-rank adapters, which train beside the weights that do not; 0 for no adapters.

    Raises:
        MissingExtraError: `transformers` is not installed.
        EncoderError: there is no such model on this machine, or it is no vision model.
        SettingsError: an argument has an impossible value.
    """

    def __init__(
        self,
        channels: int,
        ndim: int = 2,
        name: str | None = None,
        background: float = 0.0,
        trainable: Trainable = 0,
        lora_rank: int = 0,
    ) -> None:
        library = _library("transformers", "huggingface")
        if not name:
            raise SettingsError("Expected the name or folder of a model. Type network.encoder.name=<folder>.")
        model, mean, std = _from_transformers(library, name)
        takes = inspect.signature(model.forward).parameters
        if "pixel_values" not in takes:
            raise EncoderError(f"{name}: this model takes no images. Name a vision model, such as a ViT or a DINOv2.")
        super().__init__(
            channels,
            ndim,
            _LastHidden(model, "interpolate_pos_encoding" in takes),
            _stride_of(model.config),
            mean=mean,
            std=std,
            background=background,
            trainable=trainable,
            lora_rank=lora_rank,
        )

    @staticmethod
    def check_installed() -> None:
        """Checks that the extra `huggingface` is installed; called before training begins.

        Raises:
            MissingExtraError: it is not installed.
        """
        _library("transformers", "huggingface")


class _LastHidden(nn.Module):
    """Calls a model of `transformers` and returns its last hidden state."""

    def __init__(self, model: nn.Module, interpolates: bool) -> None:
        super().__init__()
        self.model, self.options = model, {"interpolate_pos_encoding": True} if interpolates else {}

    def forward(self, image: Tensor) -> Tensor:
        return self.model(pixel_values=image, **self.options).last_hidden_state


def _from_transformers(library: Any, name: str) -> tuple[Any, list[float], list[float]]:
    """Returns a model, and the mean and std of its channels."""
    try:
        model = library.AutoModel.from_pretrained(name, local_files_only=True)
        file = None if Path(name).is_dir() else _cached(name)
    except (OSError, ValueError, KeyError) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise EncoderError(
            f"{name}: there is no such model on this machine ({why}). Name a folder with its config.json and "
            f"weights, or download it first: huggingface-cli download {name}"
        ) from error
    file = Path(name) / "preprocessor_config.json" if file is None else file
    given: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return model, given.get("image_mean", list(IMAGENET_MEAN)), given.get("image_std", list(IMAGENET_STD))


def _cached(name: str) -> Path:
    hub = import_module("huggingface_hub")
    found = hub.try_to_load_from_cache(name, "preprocessor_config.json")
    return Path(found) if isinstance(found, str) else Path(name) / "preprocessor_config.json"


def _stride_of(config: Any) -> int:
    """Returns how many pixels a cell of a model's feature map has on each side."""
    patch = getattr(config, "patch_size", None)
    patch = patch[0] if isinstance(patch, list | tuple) and len(set(patch)) == 1 else patch
    stages = getattr(config, "depths", None) or getattr(config, "hidden_sizes", None)
    if stages:  # each has half as many cells along a side as the one before
        return (patch if isinstance(patch, int) else 4) * 2 ** (len(stages) - 1)
    if not isinstance(patch, int):
        raise EncoderError(f"{type(config).__name__}: it does not say how large its patches are. Use encoder=module.")
    return patch


class TimmEncoder(ModuleEncoder):
    """A model of `timm` with weights from a local file (UNI, Virchow, H-optimus, ...), for planes of 1 or 3 channels.

    Normalisation: that of the model's `pretrained_cfg`, or that of ImageNet where it has none. Input size: any whole
    number of patches (`dynamic_img_size`); models without this option take what they take. Resolution: that of the
    images which the model was trained on, as its card says (UNI and Virchow: 0.5 micrometres per pixel). Class and
    register tokens are left out.

    `timm` needs torchvision, which does not import beside every PyTorch. What is tested is how `timm.create_model`,
    `forward_features` and `pretrained_cfg` are used, with a module that stands for `timm`; not a published model.

    Args:
        channels: channels of the images, 1 or 3.
        ndim: dimensions of the images, which must be 2.
        name: name of the architecture, such as vit_large_patch16_224.
        checkpoint: file of the weights; None leaves them random.
        options: further options of `timm.create_model`, as the model's card says (UNI: {init_values: 1e-5}).
        background: pixel value outside the image; pretraining uses it to augment glimpses.
        trainable: which of the weights train: 0 for none, a number for so many of the last blocks, or "all".
        lora_rank: rank of low-rank adapters, which train beside the weights that do not; 0 for no adapters.

    Raises:
        MissingExtraError: `timm` is not installed, or cannot be imported.
        EncoderError: there is no such model, or the weights are not its own.
        SettingsError: an argument has an impossible value.
    """

    def __init__(
        self,
        channels: int,
        ndim: int = 2,
        name: str | None = None,
        checkpoint: str | None = None,
        options: Mapping[str, Any] | None = None,
        background: float = 0.0,
        trainable: Trainable = 0,
        lora_rank: int = 0,
    ) -> None:
        library = _library("timm", "timm")
        if not name:
            raise SettingsError("Expected the name of a model. Type network.encoder.name=vit_large_patch16_224.")
        if checkpoint is not None and not Path(checkpoint).is_file():
            raise EncoderError(f"{checkpoint}: there is no such file of weights. Name one that exists.")
        model = _from_timm(library, name, checkpoint, dict(options or {}))
        given = getattr(model, "pretrained_cfg", None) or {}
        super().__init__(
            channels,
            ndim,
            model,
            _timm_stride(model, name),
            mean=given.get("mean", IMAGENET_MEAN),
            std=given.get("std", IMAGENET_STD),
            background=background,
            trainable=trainable,
            lora_rank=lora_rank,
        )

    @staticmethod
    def check_installed() -> None:
        """Checks that the extra `timm` is installed; called before training begins.

        Raises:
            MissingExtraError: it is not installed.
        """
        _library("timm", "timm")

    def run(self, image: Tensor) -> Tensor:
        """Returns the features before pooling, tokens or a map."""
        features: Any = self.module.forward_features
        return features(image)


def _from_timm(library: Any, name: str, checkpoint: str | None, options: dict[str, Any]) -> Any:
    given = {"pretrained": False, "checkpoint_path": checkpoint or "", "num_classes": 0, **options}
    try:
        try:
            return library.create_model(name, **{"dynamic_img_size": True, **given})
        except TypeError:  # convolutional networks take any size, and not this option
            return library.create_model(name, **given)
    except (RuntimeError, ValueError, TypeError, OSError) as error:
        raise EncoderError(
            f"{checkpoint or name}: timm cannot make {name} with it ({str(error).splitlines()[0]}). Give the name and "
            "the options of the model's card."
        ) from error


def _timm_stride(model: Any, name: str) -> int:
    embedding = getattr(model, "patch_embed", None)
    if embedding is not None and hasattr(embedding, "patch_size"):
        patch = embedding.patch_size
        return int(patch[0] if isinstance(patch, tuple | list) else patch)
    stages = getattr(model, "feature_info", None)
    if not stages:
        raise EncoderError(f"{name}: it does not say how large its cells are. Use network/encoder=module.")
    return int(stages[-1]["reduction"])


def _library(name: str, extra: str) -> Any:
    """Imports an optional library.

    Raises:
        MissingExtraError: it is not installed, or cannot be imported.
    """
    try:
        return import_module(name)
    except (ImportError, RuntimeError) as error:  # torchvision raises the latter beside another PyTorch than its own
        message = f"This encoder needs the extra `{extra}`, which is not installed or broken ({error}). "
        raise MissingExtraError(f'{message}Run: pip install "glimpse-rl[{extra}]"') from error
