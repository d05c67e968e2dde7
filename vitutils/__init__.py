"""The parts of *Vision Transformers, Piece by Piece*.

The files beside this one are taught, each by the chapters that CHAPTERS names. The
folders serve: `data` and `plot` every chapter, `engine` long runs, `cli` the command.
"""

__version__ = "0.2.0"

# Chapter -> the module that it explains -> the names in it. What else a module holds
# belongs to its first chapter.
CHAPTERS = {
    0: {},  # the whole model, without the package
    1: {"attention": ["ScaledDotProductAttention"]},
    2: {"attention": ["MultiHeadAttention"]},
    3: {"mlp": ["MLP"]},
    4: {"encoder": ["Block"]},
    5: {"encoder": ["Encoder"]},
    6: {"embeddings": ["Embeddings"]},
    7: {"vit": ["VisionTransformer"]},
    8: {"train": ["Step", "evaluate", "fit", "parameter_groups", "warmup_cosine"]},
    9: {"maps": ["attention_maps", "attention_rollout"]},
    10: {"deit": ["DistilledVisionTransformer"]},
    11: {"distill": ["ConvNet", "Teacher", "hard_distillation", "soft_distillation"]},
    12: {},  # the studies in experiments/
    13: {"pretrained": ["at_image_size", "load_pretrained"]},
    14: {"processes": ["joined", "replicate", "share"]},
    15: {},  # what a training costs, measured
    16: {"maps": ["attention_relevance"]},
    17: {},  # the study experiments/starts.py
    18: {},  # what DeiT does to images and labels; StochasticDepth in encoder.py
}
