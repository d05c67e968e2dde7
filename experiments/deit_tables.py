"""DeiT's tables, small: the runs behind chapter 12.

    python -m experiments table_3

trains students on Fashion-MNIST, with and without a teacher, from several seeds.
"""

from dataclasses import replace
from functools import cache, partial
from itertools import product

import torch
import torch.nn.functional as F

from experiments.record import record
from vitutils.data import DATA, augmentation, load
from vitutils.deit import DistilledVisionTransformer, average, token_similarity
from vitutils.distill import ConvNet, Teacher, hard_distillation, soft_distillation
from vitutils.engine.checkpoints import load_model, save_model
from vitutils.train import evaluate, fit
from vitutils.vit import VisionTransformer

SEEDS = (0, 1, 2, 3, 4)
CHECKPOINTS = DATA / "checkpoints"
VIT = {
    "image_size": 28,
    "patch_size": 7,
    "in_channels": 1,
    "num_classes": 10,
    "embed_dim": 64,
    "depth": 4,
    "num_heads": 4,
    "mlp_dim": 128,
}
CNN = {"in_channels": 1, "num_classes": 10, "widths": (16, 32, 64, 64)}
RECIPE = {"lr": 3e-3, "betas": (0.9, 0.99), "batch_size": 128}
SETTINGS = {"vit": VIT, "cnn": CNN, "recipe": RECIPE}
AUGMENTS = {
    "flips": augmentation.flip,
    "crops": partial(augmentation.random_resized_crop, scale=(0.3, 1.0)),
    "strong crops": partial(augmentation.random_resized_crop, scale=(0.05, 1.0)),
}

# What students learn from, and from whom. Each run sees 80,000 to 100,000 images.
REGIMES = {
    "plain": {"images": 10_000, "epochs": 10, "augment": "flips", "teacher": "cnn_10k"},
    "few": {"images": 1_000, "epochs": 80, "augment": "strong crops", "teacher": "cnn"},
}
TEACHERS = {  # model, its sizes, and what it learns from; None: all training images
    "cnn": (ConvNet, CNN, {"images": None, "epochs": 6, "augment": "crops"}),
    "cnn_10k": (ConvNet, CNN, {"images": 10_000, "epochs": 20, "augment": "flips"}),
    # On strong crops these two are right about equally often: table_2 compares what
    # they teach.
    "vit": (VisionTransformer, VIT, {"images": None, "epochs": 5, "augment": "crops"}),
    "cnn_early": (ConvNet, CNN, {"images": None, "epochs": 1, "augment": "crops"}),
}
METHODS = ("none", "soft", "hard", "token", "two_class")
SOFT = {"temperature": 3.0, "balance": 0.1}  # the paper's
SOFT_HERE = {"temperature": 1.0, "balance": 0.5}  # what the search prefers


def train_student(task):
    """Train one student and measure it after its last epoch.

    Args:
        task: images, epochs, augment (one of AUGMENTS), method (one of
            METHODS), teacher (one of TEACHERS), seed; for "soft" also
            temperature and balance; split to measure on, by default test.

    Returns:
        A dict: accuracy in [0, 1] of each head, how often their answers
        and the teacher's differ, similarity of DeiT's tokens by layer.
    """
    teacher = trained_teacher(task["teacher"])
    data = fashion(task["augment"], task["images"])
    soft = {name: task[name] for name in SOFT if name in task}
    losses = {
        "none": None,
        "soft": teacher.teaches(partial(soft_distillation, **soft)),
        "hard": teacher.teaches(hard_distillation),
        "token": teacher.teaches(hard_distillation),
        "two_class": both_learn_the_labels,
    }
    two_tokens = task["method"] in ("token", "two_class")
    cls = DistilledVisionTransformer if two_tokens else VisionTransformer
    torch.manual_seed(task["seed"])
    model = cls(**VIT)
    train(model, data, task, loss_fn=losses[task["method"]])
    return measure(model, getattr(data, task.get("split", "test")), teacher)


def train_three(task):
    """Train a CNN, a ViT, and a DeiT with that CNN as teacher, on the same images."""
    data = fashion(task["augment"], task["images"])
    torch.manual_seed(task["seed"])
    cnn, vit = ConvNet(**CNN), VisionTransformer(**VIT)
    deit = DistilledVisionTransformer(**VIT)
    train(cnn, data, task)
    train(vit, data, task)
    teacher = Teacher(cnn)
    train(deit, data, task, loss_fn=teacher.teaches(hard_distillation))
    models = {"cnn": cnn, "vit": vit, "deit": deit}
    return {
        "accuracy": {
            name: round(evaluate(model, data.test).accuracy, 4)
            for name, model in models.items()
        }
    }


def train(model, data, task, loss_fn=None):
    few = data.validation.subset(500)  # a glance each epoch: nothing is chosen by it
    fit(
        model,
        replace(data, validation=few),
        epochs=task["epochs"],
        seed=task["seed"],
        loss_fn=loss_fn,
        device="cpu",
        progress=False,
        **RECIPE,
    )


def both_learn_the_labels(outputs, labels, images):
    """Train DeiT as a ViT with two class tokens: the control without a teacher."""
    return sum(F.cross_entropy(logits, labels) for logits in outputs) / 2


def measure(model, split, teacher):
    """Return accuracies, disagreements and token similarity on a split."""
    model.eval()
    two_tokens = isinstance(model, DistilledVisionTransformer)
    answers, similarity = {}, []
    device = next(model.parameters()).device
    with torch.inference_mode():
        for images, _ in split.batches(500, device=device):
            if two_tokens:
                *pair, _ = model.both_heads(images)
                logits = {"class": pair[0], "distill": pair[1], "both": average(*pair)}
                similarity.append(token_similarity(model, images))
            else:
                logits = {"class": model(images)}
            logits["teacher"] = teacher(images)
            for name, values in logits.items():
                answers.setdefault(name, []).append(values.argmax(dim=1).cpu())
    answers = {name: torch.cat(parts) for name, parts in answers.items()}
    names = list(answers)
    results = {
        "accuracy": {n: share(answers[n] == split.labels) for n in names},
        "disagreement": {
            f"{a}, {b}": share(answers[a] != answers[b])
            for i, a in enumerate(names)
            for b in names[i + 1 :]
        },
    }
    if similarity:
        by_layer = torch.stack(similarity).mean(dim=0)
        results["similarity"] = [round(value, 4) for value in by_layer.tolist()]
    return results


def share(truth):
    return round(truth.double().mean().item(), 4)


@cache
def fashion(augment, images=None):
    """Return Fashion-MNIST with its training split augmented, cut to ``images``.

    For more images than that split has, the validation images are added to it: the
    caller chooses nothing by them.
    """
    data = load("fashion_mnist")
    split = replace(data.train, augment=AUGMENTS[augment])
    if images and images > len(split):
        held_out = data.validation
        split = replace(
            split,
            images=torch.cat([split.images, held_out.images]),
            labels=torch.cat([split.labels, held_out.labels]),
        )
    return replace(data, train=split.subset(images) if images else split)


@cache
def trained_teacher(name):
    """Return a ``Teacher``; one that data/checkpoints lacks is trained first."""
    path = CHECKPOINTS / f"teacher_{name}.safetensors"
    if not path.exists():
        cls, sizes, task = TEACHERS[name]
        torch.manual_seed(0)
        model = cls(**sizes)
        data = fashion(task["augment"], task["images"])
        train(model, data, task | {"seed": 0})
        save_model(model, path, data.preprocessing)
    return Teacher(load_model(path))


def search():
    """In which regime does a teacher help? On validation images, seed 100."""
    tasks = [
        {
            "images": images,
            "epochs": 80_000 // images,
            "augment": augment,
            "teacher": "cnn",
            "method": method,
            "seed": 100,
            "split": "validation",
        }
        for images, augment, method in product(
            (500, 1_000, 10_000), AUGMENTS, ("none", "hard")
        )
    ]
    chosen = REGIMES["few"] | {"seed": 100, "split": "validation", "method": "soft"}
    tasks += [
        chosen | {"temperature": temperature, "balance": balance}
        for temperature, balance in ((3.0, 0.1), (3.0, 0.9), (1.0, 0.5), (1.0, 0.9))
    ]
    return train_student, tasks


def table_3():
    """None, soft, hard, token, and two class tokens as control, in two regimes."""
    plain, few = REGIMES["plain"], REGIMES["few"]
    tasks = [
        regime | {"method": method, "seed": seed} | more
        for regime, method, more in (
            (plain, "none", {}),
            (plain, "soft", SOFT),
            (plain, "hard", {}),
            (plain, "token", {}),
            (few, "none", {}),
            (few, "soft", SOFT),
            (few, "soft", SOFT_HERE),
            (few, "hard", {}),
            (few, "token", {}),
            (few, "two_class", {}),
        )
        for seed in SEEDS
    ]
    return train_student, tasks


def table_2():
    """The distillation token with different teachers, where images are few."""
    teachers = [name for name in TEACHERS if name != "cnn_10k"]
    tasks = [
        REGIMES["few"] | {"teacher": teacher, "method": "token", "seed": seed}
        for teacher, seed in product(teachers, SEEDS)
    ]
    return train_student, tasks


def data_sizes():
    """CNN, ViT and DeiT on more and more images, in about as many steps."""
    sizes = {1_000: 80, 2_500: 32, 7_000: 12, 20_000: 4, 60_000: 2}
    tasks = [
        {"images": images, "epochs": epochs, "augment": "flips", "seed": seed}
        for (images, epochs), seed in product(sizes.items(), SEEDS)
    ]
    return train_three, tasks


STUDIES = {study.__name__: study for study in (search, table_3, table_2, data_sizes)}
ABOUT = {name: study.__doc__.rstrip(".") for name, study in STUDIES.items()}


def perform(name, *, command, workers=None):
    """Run one of STUDIES, as far as its record does not hold it; return its path."""
    run, tasks = STUDIES[name]()
    for teacher in sorted({task["teacher"] for task in tasks if "teacher" in task}):
        print(f"teacher {teacher}", flush=True)
        trained_teacher(teacher)
    path = DATA / "results" / f"{name}.json"
    record(path, tasks, run, settings=SETTINGS, command=command, workers=workers)
    return path
