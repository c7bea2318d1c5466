"""Published weights: files read without running them, layouts of networks, one opening."""

from jaxdiff.pretrained.cifar_resnet import load_cifar_resnet
from jaxdiff.pretrained.clip import ImageEncoder, TextEncoder
from jaxdiff.pretrained.controls import Control
from jaxdiff.pretrained.efficientnet_lite import load_efficientnet_lite
from jaxdiff.pretrained.guided_classifier import Classifier, load_guided_classifier
from jaxdiff.pretrained.inception import InceptionFeatures, load_inception
from jaxdiff.pretrained.ip_adapter import load_ip_adapter, save_ip_adapter
from jaxdiff.pretrained.lora import merge_lora
from jaxdiff.pretrained.model import Autoencoder, Pretrained
from jaxdiff.pretrained.opening import load_pretrained
from jaxdiff.pretrained.opening_parts import (
    load_autoencoder,
    load_controlnet,
    load_image_encoder,
    load_t2i_adapter,
    load_text_encoder,
)
from jaxdiff.pretrained.pipeline import text_condition, with_scheduler
from jaxdiff.pretrained.saving import save_diffusers, save_safetensors
from jaxdiff.pretrained.saving_controls import save_controlnet, save_t2i_adapter
from jaxdiff.pretrained.scheduler_lists import scheduler_lists
from jaxdiff.pretrained.steering import with_controlnet, with_ip_adapter, with_t2i_adapter
from jaxdiff.pretrained.textual_inversion import read_tokens, with_textual_inversion

__all__ = [
    "Autoencoder",
    "Classifier",
    "Control",
    "ImageEncoder",
    "InceptionFeatures",
    "Pretrained",
    "TextEncoder",
    "load_autoencoder",
    "load_cifar_resnet",
    "load_controlnet",
    "load_efficientnet_lite",
    "load_guided_classifier",
    "load_image_encoder",
    "load_inception",
    "load_ip_adapter",
    "load_pretrained",
    "load_t2i_adapter",
    "load_text_encoder",
    "merge_lora",
    "read_tokens",
    "save_controlnet",
    "save_diffusers",
    "save_ip_adapter",
    "save_safetensors",
    "save_t2i_adapter",
    "scheduler_lists",
    "text_condition",
    "with_controlnet",
    "with_ip_adapter",
    "with_scheduler",
    "with_t2i_adapter",
    "with_textual_inversion",
]
