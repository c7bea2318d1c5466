"""Networks, and adapters that make any library's network a pure function of its parameters.

Importing this package imports flax.
"""

from jaxdiff.networks.adapters import from_equinox, from_linen, from_nnx
from jaxdiff.networks.adm import DhariwalUNet
from jaxdiff.networks.attention import Place, attention_weights, softmax_attention
from jaxdiff.networks.autoencoder_kl import AutoencoderKL
from jaxdiff.networks.autoencoder_tiny import AutoencoderTiny
from jaxdiff.networks.autoencoder_vq import AutoencoderVQ
from jaxdiff.networks.beside import Beside
from jaxdiff.networks.clip import ClipText, ClipVision
from jaxdiff.networks.cnn import CNN
from jaxdiff.networks.controlled import Controlled
from jaxdiff.networks.controlnet import ControlNet
from jaxdiff.networks.critic import pair_critic
from jaxdiff.networks.dit import DiT
from jaxdiff.networks.dit_embedders import DiTEmbedders
from jaxdiff.networks.edm2 import EDM2UNet
from jaxdiff.networks.efficientnet_lite import EfficientNetLite
from jaxdiff.networks.embedding import Embedding, class_index, fourier, sinusoidal
from jaxdiff.networks.flux import FluxTransformer
from jaxdiff.networks.guided_classifier import GuidedClassifier
from jaxdiff.networks.guided_unet import GuidedUNet
from jaxdiff.networks.heads import FeatureHead, feature_head
from jaxdiff.networks.image_classifier import ImageClassifier
from jaxdiff.networks.ip_adapter import IPAdapter
from jaxdiff.networks.mlp import MLP
from jaxdiff.networks.mobilenet_v2 import MobileNetV2
from jaxdiff.networks.parameters import count_parameters, graft, init, init_with_state
from jaxdiff.networks.pixart import PixArt
from jaxdiff.networks.resnet_cifar import ResNetCIFAR
from jaxdiff.networks.sd3 import SD3Transformer
from jaxdiff.networks.shufflenet import ShuffleNetV1, ShuffleNetV2
from jaxdiff.networks.song import SongUNet
from jaxdiff.networks.t2i_adapter import T2IAdapter
from jaxdiff.networks.text_to_image import TextToImage, small_text_to_image
from jaxdiff.networks.unet import UNet
from jaxdiff.networks.unet2d import UNet2D
from jaxdiff.networks.unet2d_condition import UNet2DCondition
from jaxdiff.networks.unet_control import UNetControl
from jaxdiff.networks.vgg import VGG
from jaxdiff.networks.wrn import WideResNet

__all__ = [
    "CNN",
    "MLP",
    "AutoencoderKL",
    "AutoencoderTiny",
    "AutoencoderVQ",
    "Beside",
    "ClipText",
    "ClipVision",
    "ControlNet",
    "Controlled",
    "DhariwalUNet",
    "DiT",
    "DiTEmbedders",
    "EDM2UNet",
    "Embedding",
    "FeatureHead",
    "FluxTransformer",
    "GuidedClassifier",
    "GuidedUNet",
    "IPAdapter",
    "PixArt",
    "Place",
    "SD3Transformer",
    "SongUNet",
    "T2IAdapter",
    "TextToImage",
    "UNet",
    "UNet2D",
    "UNet2DCondition",
    "UNetControl",
    "attention_weights",
    "class_index",
    "count_parameters",
    "feature_head",
    "fourier",
    "from_equinox",
    "from_linen",
    "from_nnx",
    "graft",
    "init",
    "init_with_state",
    "pair_critic",
    "sinusoidal",
    "small_text_to_image",
    "softmax_attention",
    "ImageClassifier",
    "EfficientNetLite",
    "MobileNetV2",
    "ResNetCIFAR",
    "ShuffleNetV1",
    "ShuffleNetV2",
    "VGG",
    "WideResNet",
]
