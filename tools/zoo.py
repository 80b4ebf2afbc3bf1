"""The published networks of ``docs/backbones.md`` and its tests, from all common families."""

from tools.survey import Model

_NARROW = {"channels": (16, 32, 48, 64)}
_VIT = {"img_size": 64, "depth": 2, "embed_dim": 64, "num_heads": 4}
_NAFLEX = {"depth": 2, "embed_dim": 64, "num_heads": 4}
_SWIN = {"img_size": 64, "window_size": 2, "embed_dim": 24, "depths": (1, 1, 2, 1), "num_heads": (2, 2, 2, 2)}

MODELS = (
    Model("timm:resnet18", "ResNet"),
    Model("timm:resnet50", "ResNet", small=_NARROW),
    Model("timm:resnet50d", "ResNet", small=_NARROW),
    Model("timm:seresnet18", "ResNet"),
    Model("timm:resnext50_32x4d", "ResNeXt", small={"channels": (32, 64, 64, 64)}),
    Model("timm:wide_resnet50_2", "Wide ResNet", small=_NARROW),
    Model("timm:resnetv2_50x1_bit", "BiT", small={"channels": (128, 128, 128, 128)}),
    Model("timm:densenet121", "DenseNet", small={"block_config": (2, 2, 2, 2)}),
    Model("timm:vgg11_bn", "VGG"),
    Model("timm:mobilenetv2_100", "MobileNet V2"),
    Model("timm:mobilenetv3_small_100", "MobileNet V3"),
    Model("timm:mobilenetv4_conv_small", "MobileNet V4"),
    Model("timm:efficientnet_b0", "EfficientNet"),
    Model("timm:tf_efficientnetv2_b0", "EfficientNet V2"),
    Model("timm:convnext_atto", "ConvNeXt"),
    Model("timm:convnextv2_atto", "ConvNeXt V2"),
    Model("timm:regnetx_002", "RegNet"),
    Model("timm:regnety_002", "RegNet"),
    Model("timm:repvgg_a0", "RepVGG"),
    Model("timm:hrnet_w18_small", "HRNet"),
    Model("timm:inception_v3", "Inception", 128),
    Model("timm:inception_v4", "Inception", 160),
    Model("timm:xception41", "Xception"),
    Model("timm:dpn68", "DPN"),
    Model("timm:dla34", "DLA"),
    Model("timm:ghostnet_100", "GhostNet"),
    Model("timm:mobilevit_xxs", "MobileViT"),
    Model("timm:mobilevitv2_050", "MobileViT"),
    Model("timm:vit_tiny_patch16_224", "ViT", small=_VIT),
    Model("timm:vit_base_patch16_clip_224", "ViT", small=_VIT),
    Model("timm:deit_tiny_patch16_224", "DeiT", small=_VIT),
    Model("timm:deit_tiny_distilled_patch16_224", "DeiT, distilled", small=_VIT),
    Model("timm:deit3_small_patch16_224", "DeiT III", small=_VIT),
    Model("timm:beit_base_patch16_224", "BEiT", small=_VIT),
    Model("timm:beitv2_base_patch16_224", "BEiT", small=_VIT),
    Model("timm:eva02_tiny_patch14_336", "EVA-02", 56, {**_VIT, "img_size": 56}),
    Model("timm:cait_xxs24_224", "CaiT", small={"img_size": 64, "depth": 2}),
    Model("timm:xcit_nano_12_p16_224", "XCiT", small={"img_size": 64, "depth": 2}),
    Model("timm:pit_ti_224", "PiT", 224),
    Model("timm:levit_128s", "LeViT", 224),
    Model("timm:crossvit_tiny_240", "CrossViT", 240),
    Model("timm:swin_tiny_patch4_window7_224", "Swin", small=_SWIN),
    Model("timm:swinv2_tiny_window8_256", "Swin V2", small=_SWIN),
    Model("timm:maxvit_tiny_tf_224", "MaxViT", small={"img_size": 64, "depths": (1, 1, 1, 1)}),
    Model("timm:coatnet_nano_rw_224", "CoAtNet", small={"img_size": 64}),
    Model("timm:mixer_s32_224", "Mixer", small={"img_size": 64}),
    Model("timm:resmlp_12_224", "ResMLP", small={"img_size": 64}),
    Model("timm:pvt_v2_b0", "PVT V2"),
    Model("timm:poolformer_s12", "PoolFormer"),
    Model("timm:caformer_s18", "CAFormer"),
    Model("timm:vit_so150m_patch16_reg4_map_256", "ViT, attention pooling", small=_VIT),
    Model("timm:naflexvit_base_patch16_map", "NaFlexViT, attention pooling", small=_NAFLEX),
    Model("torchvision:alexnet", "AlexNet"),
    Model("torchvision:resnet18", "ResNet"),
    Model("torchvision:resnext50_32x4d", "ResNeXt"),
    Model("torchvision:densenet121", "DenseNet"),
    Model("torchvision:vgg11", "VGG"),
    Model("torchvision:mobilenet_v2", "MobileNet V2"),
    Model("torchvision:mobilenet_v3_small", "MobileNet V3"),
    Model("torchvision:efficientnet_b0", "EfficientNet"),
    Model("torchvision:convnext_tiny", "ConvNeXt"),
    Model("torchvision:regnet_y_400mf", "RegNet"),
    Model("torchvision:googlenet", "Inception", small={"init_weights": False}),
    Model("torchvision:inception_v3", "Inception", 128, {"init_weights": False}),
    Model("torchvision:shufflenet_v2_x0_5", "ShuffleNet"),
    Model("torchvision:squeezenet1_1", "SqueezeNet"),
    Model("torchvision:vit_b_32", "ViT", small={"image_size": 64}),
    Model("torchvision:swin_t", "Swin"),
    Model("torchvision:swin_v2_t", "Swin V2"),
)

# More networks with attention pooling, which are published without a classifier or with another pooling.
ATTENTION_POOLED = (
    Model("timm:vit_base_patch16_siglip_224", "SigLIP", small=_VIT),
    Model("timm:vit_base_patch32_siglip_256", "SigLIP 2", small=_VIT),
    Model("timm:naflexvit_base_patch16_siglip", "SigLIP 2, NaFlex", small=_NAFLEX),
    Model("timm:vit_pe_core_tiny_patch16_384", "PE-core", small=_VIT),
    Model("timm:eva02_tiny_patch14_336", "EVA-02", 56, {**_VIT, "img_size": 56, "global_pool": "map"}),
    Model("timm:vit_tiny_patch16_224", "ViT", small={**_VIT, "global_pool": "map"}),
)

# Networks without a classifier, or whose classifier is not a single layer.
REFUSED = (
    Model("timm:vit_base_patch16_siglip_224", "SigLIP", small=_VIT),
    Model("timm:vit_small_patch14_dinov2", "DINOv2", 56, {**_VIT, "img_size": 56}),
    Model("timm:eva02_tiny_patch14_224", "EVA-02", 56, {**_VIT, "img_size": 56}),
    Model("timm:volo_d1_224", "VOLO", 224),
)
