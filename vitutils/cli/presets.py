"""Options by name: what a preset of the training command sets."""

import math

# What the command assumes where neither a preset nor a word says otherwise: ten passes,
# and the sizes of ViT-Ti/16.
DEFAULTS = dict(epochs=10, embed_dim=192, depth=12, num_heads=3, mlp_dim=768)

SMALL = dict(
    embed_dim=64, depth=4, num_heads=4, mlp_dim=128, lr=3e-3, betas=(0.9, 0.99)
)

PRESETS = {
    # The checkpoint of data/checkpoints, and the teacher's sizes there.
    "fashion_mnist": SMALL
    | dict(
        data="fashion_mnist",
        crop="flip",
        epochs=7,
        patch_size=7,
        widths=(16, 32, 64, 64),
    ),
    # The students and the teacher of experiments/cifar10.py.
    "cifar10": SMALL
    | dict(data="cifar10", epochs=8, patch_size=4, widths=(32, 64, 128, 256)),
    # Touvron et al. (2021), table 9.
    "imagenet_deit_small": dict(
        image_size=224,
        patch_size=16,
        embed_dim=384,
        depth=12,
        num_heads=6,
        mlp_dim=1536,
        epochs=300,
        batch_size=1024,
        lr=1e-3,
        warmup=5 / 300,
        clip_norm=math.inf,
        crop="resized",
        randaugment=9,
        mixup=0.8,
        cutmix=1.0,
        erase=0.25,
        repeats=3,
        label_smoothing=0.1,
        stochastic_depth=0.1,
    ),
}
