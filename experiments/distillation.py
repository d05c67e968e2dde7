"""What is a teacher worth? DeiT's main table, small, on CIFAR-10.

    python -m experiments distillation --plan     # what there is to do, and how long
    python -m experiments distillation            # --data FOLDER: a copy of the images

What follows was fixed before the runs, save what is said to be later.

**Question.** Does a small ViT classify better if a convolutional network teaches it as
well, and if so, is it hard distillation, the distillation token, or merely a second
token that helps? The paper's answers, ImageNet, DeiT-Ti / S / B: hard distillation
gains 2.1 / 1.1 / 1.2 points over none, the token read by both heads 0.2 / 0.3 / 0.4
over hard distillation, and a second class token nothing (Touvron et al. 2021, table 3
and section 4).

**Data.** CIFAR-10. A seed draws 10,000 of the 45,000 training images. All choices are
made on the 5,000 validation images; the 10,000 test images are read once a run, after
its last epoch. The seed also gives the order, the crops and the teacher, which the arms
of a seed share, and the initial weights, which those with as many tokens share.

**Teacher.** As in the paper it has learned from the student's own images and no others:
a convnet, one a seed, 10 epochs at a rate of 0.003, with the student's augmentation,
but from other crops of these images than those that it is asked about, which are the
very crops that the student sees. Its recipe is not tuned. A teacher that has seen all
45,000 images asks another question, and has a part of its own ("more").

**Arms** (``ARMS``). "none"; "two class tokens", DeiT's model with the labels for both
heads: the control for the second token; "soft" with the paper's temperature 3 and
balance 0.1; "soft, tuned"; "hard"; "token", hard distillation by the second head, read
by each head and by both. Students have patches of 4 pixels, width 64, four blocks, two
heads of attention and MLPs of 128, and learn for 20 epochs in batches of 128 (``fit``'s
warm-up over a tenth of the steps, cosine, decay 0.05, gradients clipped at 1).

**Choices**, by runs from ``TUNING_SEED``, which is used nowhere else: first the
augmentation (``AUGMENTS``) with which the student *without* a teacher is best at a rate
of 0.003, for all arms, which is conservative *against* distillation and unlike the
paper; then for each arm the best of three rates. Where that is an end of the three, one
more is tried beyond it. "soft, tuned" takes the best of four pairs of temperature and
balance, the paper's among them, at the rate of "soft": it is tuned less than as many
free tries would be, and a loss to "hard" is read with that. No epoch is chosen, and
nothing is concluded before all ten seeds. What chooses never reads the test images.

One seed tells apart settings that differ by a point or so; between nearer ones chance
decides, and what it decides is the same in all ten seeds and in no interval. So where
the arms of a primary contrast have different rates, each also runs at the other's, five
seeds ("rates"), and a finding is one *at every rate tried* only if the mean keeps its
sign there.

**Primary contrasts** (``PRIMARY``), ten seeds, test accuracy, both heads where there
are two: hard - none, token - hard, token - two class tokens. For each the paired t
interval, as a seed's arms share images and teacher, at 1 - 0.05 / 3, so that the three
hold together at 95 %. Beside it stands the unpaired one (Welch), which decides nothing.
All else is secondary: at 95 %, uncorrected, and said to be so. Named beforehand among
it: hard - soft, tuned (ten seeds) and hard - soft (five), which is the paper's
headline; the class head and the distillation head of "token", each alone, - hard, as an
average of two heads has an advantage that one head lacks, and token - two class tokens
is the one contrast in which both sides have it; two class tokens - none.

**What would count.** A finding of the paper is *found* here if its corrected interval
lies above zero, *reversed* if below, else *not shown*, which is not "not there". Where
the interval's upper end lies below the paper's gain for DeiT-Ti, so large a gain is
*excluded* here. The mean, the interval and the share of the gap between teacher and
"none" that is closed are given in any case. A trial before this study (seeds 0 to 2,
one subset, a teacher of 45,000 images, nothing tuned, test images read) had hard - none
at 1.1, token - none at 1.6, soft at temperature 1 and balance 0.9 - none at 2.4 points;
its paired differences had standard deviations of 0.5 to 0.8. With 0.7 a corrected
interval is 0.65 points to each side, with 1.0 it is 0.93: more than the paper's token
gains over hard distillation. Seeds draw from one set of images and share one set of
test images: the intervals speak of other draws from these, not of other data, nor of
longer training.

**Where from?** Small parts behind the main one, three or five of its seeds (``PARTS``):
a teacher with more images; controls (labels smoothed instead of taught; the teacher
asked about the whole image, not the crop; the student "none" of the seed as teacher; a
teacher's answers dealt anew among crops of the same label, which keeps how often it
errs and for what, and tells nothing of the image); crop sizes; half and twice the
epochs, where "none" for twice as long is what the teacher's time would also buy; and
beside the paper's tables 6 and 8 SGD with a rate of its own and no decay, the paper's
recipe with one piece missing (at the rate of "none"), transfer to two other sets, and
five more epochs at 48 pixels, with and without the teacher, beside as many at the old
32.

What is compared in the small parts was fixed later, when the main part, "crops", "SGD"
and the shorter half of "lengths" were known, and before a result of the others was
read, save for those of seed 0 with twice the epochs. All is paired by seed, at 95 %
and beside it corrected for its family. "more": hard, token and soft, tuned, each with
the teacher of more images - with that of the same, five seeds (a family of three). Two
teachers serve these five, so that the intervals speak of students, not of other such
teachers; and a teacher of more images has also learned for more steps. "lengths": hard
- none and token - none with twice the epochs; and for as much time, the teacher's
included, none with twice the epochs - hard, and - soft, tuned, with the usual ones
(four). "recipe": each recipe with a piece missing - the whole one (seven), and the
whole one - none (one). "controls": each - none, and each - hard (eight).

Of "few", "transfer" and "finer" no run had been made when this was written. "few",
three seeds, asks whether the recipe pays where images are seen often enough to be
learned by heart, as in the paper's 300 epochs: a tenth of a seed's images, ten times
the epochs, the whole recipe - none and CutMix alone - none (a family of two), and the
whole recipe - none less the same difference with all images and 20 epochs (one).
"transfer", five seeds, each of the two sets and three ways by itself: hard - none,
whether a teacher's student is worth more elsewhere (a family of six); none - fresh,
whether anything was learned at all (six); none - pixels, by neighbors and by the linear
classifier (four). A set's images are drawn with the seed, so that all is paired.
"finer", three seeds: 48 pixels - 32 for each of the three ways of learning on (three),
and at 48 pixels token by the teacher - token by the labels (one). Three seeds show
differences of two points or so, and no smaller ones.

When fifteen of its eighteen runs had been seen, "finer" got a fourth way. A teacher
that has learned images of 32 pixels is right on about 40 % of those of 48, in place of
71 %, and the student's distillation head follows it there; the paper's teachers are
made for the student's size. So the teacher is also asked about the same images
resampled to 32 pixels. Fixed before these three runs: token by this teacher - token by
the labels, and - token by the teacher at 48 pixels (a family of two). What was planned
first is reported as it is.

Beside test accuracies stand those of the validation images and of 2,000 training
images; they decide nothing. Trained teachers and the students of the main part lie in
runs/distillation, under names that say their seed alone: who moves the record away
moves that folder away too. What is missing there is trained again where a later part
needs it. All compute in bf16: where a processor has no instructions for it, that takes
several times as long.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import product
from pathlib import Path
from statistics import fmean

import torch
import torch.nn.functional as F
from torch import Tensor

from experiments import transfer
from experiments.contrasts import corrected, paired, unpaired
from experiments.record import record, reload
from experiments.starts import enlarged
from experiments.students import both_learn_the_labels, measure
from vitutils.data import DATA, Dataset, augmentation, load
from vitutils.data.splits import MemorySplit, generator, strengthen
from vitutils.deit import DistilledVisionTransformer
from vitutils.distill import ConvNet, Teacher, hard_distillation, soft_distillation
from vitutils.engine.checkpoints import load_model, save_model
from vitutils.engine.large_step import LargeStep
from vitutils.engine.writing import write_atomically
from vitutils.pretrained import at_image_size
from vitutils.train import evaluate, fit, warmup_cosine
from vitutils.vit import VisionTransformer

IMAGES, EPOCHS, BATCH = 10_000, 20, 128
SEEDS, FIVE, THREE, TUNING_SEED = tuple(range(10)), range(5), range(3), 100
STUDENT = {
    "image_size": 32,
    "patch_size": 4,
    "in_channels": 3,
    "num_classes": 10,
    "embed_dim": 64,
    "depth": 4,
    "num_heads": 2,
    "mlp_dim": 128,
}
CNN = {"in_channels": 3, "num_classes": 10, "widths": (32, 64, 128, 256)}
RECIPE = {"betas": (0.9, 0.99), "batch_size": BATCH, "weight_decay": 0.05}
TEACHERS = {  # images and epochs; more-0 teaches even seeds, more-1 odd ones
    "same": {"images": IMAGES, "epochs": 10},
    "more": {"images": 45_000, "epochs": 8},
}
TEACHER_RATE = 3e-3
CROPS = {"crops": (0.35, 1.0), "strong crops": (0.08, 1.0)}  # share of the area kept
AUGMENTS = {"shifts": augmentation.shift_and_flip, "flips": augmentation.flip} | {
    name: partial(augmentation.random_resized_crop, scale=scale)
    for name, scale in CROPS.items()
}
RATES = (3e-3, 1.5e-3, 6e-3)
BEYOND = {1.5e-3: 7.5e-4, 6e-3: 1.2e-2}  # tried where an end of the three is best
PAPER = {"temperature": 3.0, "balance": 0.1}
SOFTER = [(1.0, 0.5), (1.0, 0.9), (3.0, 0.9)]  # temperature, balance
ARMS = ("none", "two class tokens", "soft", "soft, tuned", "hard", "token")
TWO_TOKENS = ("two class tokens", "token")
UNTAUGHT = ("none", "two class tokens")
PRIMARY = (("hard", "none"), ("token", "hard"), ("token", "two class tokens"))
FULL = {  # of the paper's table 9, beside strong crops
    "randaugment": 9,
    "mixup": 0.8,
    "cutmix": 1.0,
    "erase": 0.25,
    "repeats": 3,
    "stochastic_depth": 0.1,
    "smoothing": 0.1,
}
SGD_RATES = (0.1, 0.03, 0.3, 1.0)
FINER = {"epochs": 5, "lr": 3e-4}  # not tuned
SETTINGS = {
    "images": IMAGES,
    "student": STUDENT,
    "cnn": CNN,
    "recipe": RECIPE,
    "teachers": TEACHERS,
    "teacher_rate": TEACHER_RATE,
    "crops": CROPS,
    "rates": RATES,
    "sgd_rates": SGD_RATES,
    "softer": SOFTER,
    "full": FULL,
}
PARTS = {  # in the order in which they run; those that choose run in any case
    "augmentation": "the student's without a teacher",
    "teachers": "one a seed, from the student's images",
    "search": "three rates an arm",
    "search, further": "one more where an end of the three is best",
    "soft": "three temperatures and balances",
    "main": "the six arms",
    "rates": "the arms of a primary contrast at each other's rate",
    "more": "teachers of all images",
    "controls": "smooth labels; other teachers; the whole image judged, not the crop",
    "crops": "other crops, with and without a teacher",
    "lengths": "half and twice the epochs, with and without a teacher",
    "SGD rates": "four",
    "SGD": "in AdamW's place, at the best of these",
    "recipe": "the paper's, and one piece missing at a time",
    "few": "the same on a tenth of the images, ten times as often",
    "transfer": "to clothes and digits: neighbors, linear, fine-tuned",
    "finer": "five epochs more, at 32 and at 48 pixels, with and without a teacher",
}
SEARCH = {"search", "search, further"}
CHOOSING = {"augmentation", *SEARCH, "soft", "SGD rates"}
NEEDED = CHOOSING - {"SGD rates"} | {"teachers"}
ABOUT = {"distillation": "what a teacher is worth on CIFAR-10: ten seeds, six arms"}
RUNS = Path("runs/distillation")

# ---- What there is to do ----


def choices(runs: list[dict]) -> dict:
    """Return the augmentation and each arm's settings: the best by validation.

    What has not been tried yet counts as worst, and of equals the first is taken.
    """

    def best(parts, tried, **which):
        def accuracy(setting):
            wanted = (which | setting).items()
            found = [
                row["accuracy"][head_of(row["task"])]
                for row in runs
                if row["task"]["part"] in parts and wanted <= row["task"].items()
            ]
            return max(found, default=-1)

        return max(tried, key=accuracy)

    augment = best({"augmentation"}, [{"augment": name} for name in AUGMENTS])
    rates = [{"lr": rate} for rate in (*RATES, *BEYOND.values())]
    chosen = {arm: augment | best(SEARCH, rates, arm=arm) for arm in ARMS}
    tried = [{"temperature": t, "balance": b} for t, b in SOFTER]
    tuned = best({"soft", *SEARCH}, [PAPER, *tried], lr=chosen["soft"]["lr"])
    chosen["soft, tuned"] = chosen["soft"] | tuned
    chosen["soft"] |= PAPER
    sgd = [{"lr": rate} for rate in SGD_RATES]
    chosen["SGD"] = best({"SGD rates"}, sgd)
    return chosen


def tasks_of(part: str, chosen: dict) -> list[dict]:
    """Return the tasks of a part, each a dict that says all about one run."""

    def student(arm, seed, teacher="same", **changes):
        task = {"part": part, "arm": arm, "seed": seed, "epochs": EPOCHS}
        task |= {} if arm in UNTAUGHT else {"teacher": teacher}
        return task | chosen[arm] | changes

    def teacher(which, seed, augment=chosen["none"]["augment"]):
        known = {"part": part, "arm": "teacher", "teacher": which, "seed": seed}
        return known | {"augment": augment}

    if part == "augmentation":
        return [student("none", TUNING_SEED, lr=3e-3, augment=a) for a in AUGMENTS]
    if part == "teachers":
        return [teacher("same", seed) for seed in (TUNING_SEED, *SEEDS)]
    if part == "search":
        arms = [arm for arm in ARMS if arm != "soft, tuned"]
        return [student(a, TUNING_SEED, lr=lr) for a, lr in product(arms, RATES)]
    if part == "search, further":
        arms = [arm for arm in ARMS if arm != "soft, tuned"]
        ends = [(arm, BEYOND.get(chosen[arm]["lr"])) for arm in arms]
        return [student(arm, TUNING_SEED, lr=lr) for arm, lr in ends if lr]
    if part == "soft":
        return [
            student("soft, tuned", TUNING_SEED, temperature=t, balance=b)
            for t, b in SOFTER
        ]
    if part == "main":
        return [
            student(arm, seed)
            for seed, arm in product(SEEDS, ARMS)
            if seed in FIVE or arm != "soft"
        ]
    if part == "rates":
        swaps = [(a, chosen[b]["lr"]) for x, y in PRIMARY for a, b in ((x, y), (y, x))]
        others = [(a, lr) for a, lr in dict.fromkeys(swaps) if lr != chosen[a]["lr"]]
        return [student(a, seed, lr=lr) for seed, (a, lr) in product(FIVE, others)]
    if part == "more":
        arms = ("hard", "token", "soft, tuned")
        taught = [student(a, s, "more") for s, a in product(FIVE, arms)]
        return [teacher("more", 0), teacher("more", 1), *taught]
    if part == "controls":
        return [
            task
            for seed in FIVE
            for task in (
                student("none", seed, smoothing=0.1),
                student("hard", seed, whole=True),
                student("hard", seed, "student"),
                student("hard", seed, dealt=True),
            )
        ]
    if part == "crops":
        others = [
            a for a in ("flips", "strong crops") if a != chosen["none"]["augment"]
        ]
        teachers = [teacher("same", s, a) for a, s in product(others, THREE)]
        every = product(others, THREE, ("none", "hard"))
        return teachers + [student(arm, s, augment=a) for a, s, arm in every]
    if part == "lengths":
        every = product((EPOCHS // 2, 2 * EPOCHS), THREE, ("none", "hard", "token"))
        return [student(arm, seed, epochs=epochs) for epochs, seed, arm in every]
    if part == "SGD rates":
        return [
            student("none", TUNING_SEED, optimizer="SGD", lr=lr) for lr in SGD_RATES
        ]
    if part == "SGD":
        sgd = {"optimizer": "SGD"} | chosen["SGD"]
        return [student("none", seed, **sgd) for seed in THREE]
    if part == "recipe":
        recipes = [FULL] + [{k: FULL[k] for k in FULL if k != name} for name in FULL]
        return [
            student("none", seed, augment="strong crops", **recipe)
            for recipe, seed in product(recipes, THREE)
        ]
    if part == "few":
        often = {"images": IMAGES // 10, "epochs": 10 * EPOCHS}
        kinds = ({}, {"cutmix": FULL["cutmix"]}, {"augment": "strong crops"} | FULL)
        return [
            student("none", seed, **often, **kind)
            for seed, kind in product(THREE, kinds)
        ]
    if part == "finer":
        ways = (("none", "labels"), ("token", "labels"), ("token", "teacher"))
        planned = product((32, 48), ways, THREE)
        added = product((48,), [("token", "teacher at 32")], THREE)
        return [
            {"part": part, "arm": arm, "by": by, "size": size, "seed": seed}
            | {"augment": chosen["none"]["augment"]}
            | FINER
            for size, (arm, by), seed in (*planned, *added)
        ]
    arms = ("none", "hard", "token", "fresh", "pixels")
    return [
        {"part": part, "arm": arm, "seed": seed, "to": to}
        for to, arm, seed in product(transfer.SETS, arms, FIVE)
    ]


def head_of(task: dict) -> str:
    """Return by which of its heads an arm is compared."""
    return "both" if task["arm"] in TWO_TOKENS else "class"


def minutes(task: dict) -> float:
    """Return about how long a task takes one core of two that both compute.

    Seconds for a thousand images are those of an AMD EPYC with AVX-512 in bf16.
    """
    if task["part"] == "transfer":
        return 0.1 if task["arm"] == "pixels" else 0.5
    if task["part"] == "finer":
        times = 2.3 if task["size"] == 48 else 1.0  # as many tokens
        each = 0.75 + 0.25 * (task["by"] != "labels")
        return times * task["epochs"] * IMAGES * each / 60_000
    if task["arm"] == "teacher":
        how = TEACHERS[task["teacher"]]
        asked = EPOCHS * IMAGES if task["teacher"] == "same" else 0
        return (how["images"] * how["epochs"] * 0.95 + asked * 0.25) / 60_000
    each = 0.75 if task["arm"] in TWO_TOKENS else 0.7
    if not is_noted(task) and task["arm"] not in UNTAUGHT and not task.get("whole"):
        each += 0.25
    if task.get("randaugment"):
        each += 0.55
    return task["epochs"] * task.get("images", IMAGES) * each / 60_000 + 0.15


def planned(runs: list[dict]) -> str:
    """Return what there is to do, part by part, with core minutes."""
    chosen, done, lines = choices(runs), [row["task"] for row in runs], []
    total = left = 0.0
    for part, about in PARTS.items():
        tasks = tasks_of(part, chosen)
        todo = [task for task in tasks if task not in done]
        whole, still = (sum(map(minutes, some)) for some in (tasks, todo))
        total, left = total + whole, left + still
        lines.append(
            f"{part:16}{len(tasks):4} runs {whole:4.0f} min, to do {len(todo):3} "
            f"{still:4.0f} min: {about}"
        )
        if part == "main":
            lines.append(f"so far           {total:13.0f} min,         {left:4.0f} min")
    lines.append(
        f"in all           {total:13.0f} min,         {left:4.0f} min of one core"
    )
    return "\n".join(lines)


# ---- One run ----


@cache
def cifar(data: str) -> Dataset:
    return load(data)


def drawn(data: str, seed: int, augment: str, images: int | None = None) -> MemorySplit:
    """Return the training images of a seed, or the first of them."""
    train = cifar(data).train
    order = torch.randperm(len(train), generator=generator("images", seed))
    return replace(train.subset(order[: images or IMAGES]), augment=AUGMENTS[augment])


def is_noted(task: dict) -> bool:
    """Tell whether a run's crops are among those that its teacher has judged."""
    changed = {"whole", *FULL}.intersection(task)
    return task.get("teacher") == "same" and task["epochs"] <= EPOCHS and not changed


class Noted(Teacher):
    """A teacher that reads what it has said of a run's crops, in their order.

    Arms of one seed see the same crops: their teacher judges each of them once.
    """

    def __init__(self, model: torch.nn.Module, answers: Tensor) -> None:
        super().__init__(model)
        self.answers, self.at = answers, 0

    def __call__(self, images: Tensor) -> Tensor:
        """Return the logits (B, K) of the next crops."""
        rows = self.answers[self.at : self.at + len(images)]
        self.at += len(images)
        return rows.float()


def note(teacher: Teacher, split: MemorySplit, seed: int) -> Tensor:
    """Return a teacher's logits of all crops that a seed's students see, in fp16."""
    answers = []
    for epoch in range(EPOCHS):
        for images, _ in split.batches(BATCH, seed=seed, epoch=epoch):
            with torch.autocast("cpu", torch.bfloat16):
                answers.append(teacher(images).half())
    return torch.cat(answers)


def trained_teacher(which: str, seed: int, augment: str, data: str) -> tuple:
    """Return a teacher's model and its answers; it is trained where it is missing.

    Returns:
        The model, and what ``note`` returns (None for which == "more").
    """
    name = f"{which}-{seed}-{augment.replace(' ', '-')}"
    path, answers = RUNS / f"{name}.safetensors", RUNS / f"{name}.pt"
    few = drawn(data, seed, augment)
    if not path.exists():
        train = few
        if which == "more":
            train = replace(cifar(data).train, augment=AUGMENTS[augment])
        torch.manual_seed(seed)
        model, epochs = ConvNet(**CNN), TEACHERS[which]["epochs"]
        learn(model, train, data, seed=1000 + seed, epochs=epochs, lr=TEACHER_RATE)
        save_model(model, path)
    model = load_model(path)
    if which == "more":
        return model, None
    if not answers.exists():
        rows = note(Teacher(model), few, seed)
        write_atomically(answers, lambda part: torch.save(rows, part))
    return model, torch.load(answers)


def dealt(answers: Tensor, split: MemorySplit, seed: int) -> Tensor:
    """Return answers dealt anew, epoch by epoch, among the crops of each label."""
    orders = []
    for epoch in range(EPOCHS):
        batches = split.batches(BATCH, seed=seed, epoch=epoch)
        labels = torch.cat([labels for _, labels in batches])
        order = torch.arange(len(labels))
        for label in labels.unique():
            (own,) = torch.where(labels == label)
            chance = generator(f"deal {label} of epoch {epoch}", seed)
            order[own] = own[torch.randperm(len(own), generator=chance)]
        orders.append(order + epoch * len(labels))
    return answers[torch.cat(orders)]


def learn(model, train, data, *, step=LargeStep, **settings) -> list[dict]:
    """Train a model in bf16, with a glance at 500 validation images an epoch."""
    glance = cifar(data).validation
    glance = enlarged(glance.subset(min(500, len(glance))), train.image_size)
    return fit(
        model,
        replace(cifar(data), train=train, validation=glance),
        step=partial(step, precision="bf16"),
        device="cpu",
        progress=False,
        **RECIPE | settings,
    )


class BySGD(LargeStep):
    """A step by SGD with Nesterov's momentum instead of AdamW."""

    def __init__(self, model, optimizer, schedule, *, steps, **settings):
        lr = optimizer.defaults["lr"]
        optimizer = torch.optim.SGD(model.parameters(), lr, 0.9, nesterov=True)
        warmup = round(0.1 * steps)
        schedule = warmup_cosine(optimizer, steps=steps, warmup_steps=warmup)
        super().__init__(model, optimizer, schedule, **settings)


def loss_of(task: dict, teacher: Teacher | None) -> Callable:
    """Return the ``loss_fn`` of an arm for ``fit``."""
    soft = {name: task[name] for name in PAPER if name in task}
    taught = {
        "soft": partial(soft_distillation, **soft),
        "soft, tuned": partial(soft_distillation, **soft),
        "hard": hard_distillation,
        "token": hard_distillation,
    }
    smoothing = task.get("smoothing", 0.0)

    def loss_fn(outputs, labels, images):
        if task.get("whole"):
            return whole_image(outputs, labels)
        if smoothing:
            if labels.ndim == 1:
                labels = F.one_hot(labels, 10).float()
            labels = (1 - smoothing) * labels + smoothing / labels.shape[1]
        if task["arm"] == "none":
            return F.cross_entropy(outputs, labels)
        if task["arm"] == "two class tokens":
            return both_learn_the_labels(outputs, labels, images)
        return taught[task["arm"]](outputs, labels, teacher(images))

    return loss_fn


def whole_image(logits: Tensor, both: Tensor) -> Tensor:
    """Hard distillation from answers that came with the labels: label + 10 answer."""
    losses = (F.cross_entropy(logits, part) for part in (both % 10, both // 10))
    return sum(losses) / 2


def train_student(task: dict, data: str) -> dict:
    """Train a student and measure it after its last epoch; see ``measure``."""
    model = answers = None
    train = drawn(data, task["seed"], task["augment"], task.get("images"))
    if task.get("teacher") == "student":
        model = trained_student("none", task["seed"], data)
    elif "teacher" in task or task["part"] in ("main", "rates", *SEARCH):
        which, seed = task.get("teacher", "same"), task["seed"]
        seed = seed % 2 if which == "more" else seed
        model, answers = trained_teacher(which, seed, task["augment"], data)
    if task.get("dealt"):
        answers = dealt(answers, train, task["seed"])
    teacher = model and Teacher(model)
    seen = train.subset(min(2000, len(train)))
    if task.get("whole"):
        said = evaluate(model, replace(train, augment=None)).logits.argmax(dim=1)
        train = replace(train, labels=train.labels + 10 * said)
    train = strengthen(train, **among(task, "randaugment", "erase", "repeats"))
    mix = augmentation.mixing(10, **among(task, "mixup", "cutmix"))
    step = partial(LargeStep, mix=mix)
    if task.get("optimizer") == "SGD":
        step = partial(BySGD, steps=task["epochs"] * train.num_batches(BATCH))
    two_tokens = task["arm"] in TWO_TOKENS
    cls = DistilledVisionTransformer if two_tokens else VisionTransformer
    torch.manual_seed(task["seed"])
    student = cls(**STUDENT, **among(task, "stochastic_depth"))
    asked = Noted(model, answers) if is_noted(task) else teacher
    history = learn(
        student,
        train,
        data,
        loss_fn=loss_of(task, asked),
        step=step,
        **among(task, "seed", "epochs", "lr"),
    )
    if task["part"] == "main":
        save_model(student, student_file(task["arm"], task["seed"]))
    valid = measured(student, cifar(data).validation, teacher)
    chooses = task["part"] in CHOOSING
    found = valid if chooses else measured(student, cifar(data).test, teacher)
    beside = {} if chooses else {"validation": valid}
    return (
        found
        | beside
        | {
            "training": measured(student, seen, teacher),
            "history": [
                [round(epoch[name], 4) for name in ("train_loss", "val_accuracy")]
                for epoch in history
            ],
        }
    )


def measured(student, split: MemorySplit, teacher: Teacher | None) -> dict:
    """Return what ``measure`` does; without a teacher the accuracy alone."""
    if teacher is not None:
        return measure(student, split, teacher)
    return {"accuracy": {"class": round(evaluate(student, split).accuracy, 4)}}


def among(task: dict, *names: str) -> dict:
    """Return what a task says of these names."""
    return {name: task[name] for name in names if name in task}


def trained_student(arm: str, seed: int, data: str) -> torch.nn.Module:
    """Return a student of the main part; it is trained again where it is missing."""
    path = student_file(arm, seed)
    if not path.exists():
        held = reload(DATA / "results" / "distillation.json", SETTINGS | {"data": data})
        tasks = tasks_of("main", choices(held["runs"]))
        (task,) = (t for t in tasks if (t["arm"], t["seed"]) == (arm, seed))
        train_student(task, data)
    return load_model(path)


def student_file(arm: str, seed: int) -> Path:
    return RUNS / f"student-{arm.replace(' ', '-')}-{seed}.safetensors"


def carry_over(task: dict, data: str) -> dict:
    """Measure what a student of the main part is worth on other images."""
    normalized = {"mean": cifar(data).mean, "std": cifar(data).std}
    train, test = transfer.splits(task["to"], task["seed"], **normalized)
    model = None
    if task["arm"] == "fresh":
        torch.manual_seed(task["seed"])
        model = VisionTransformer(**STUDENT)
    elif task["arm"] != "pixels":
        model = trained_student(task["arm"], task["seed"], data)
    rows = [transfer.features(model, split) for split in (train, test)]
    says = {
        way.__name__: way(rows[0], train.labels, rows[1])
        for way in (transfer.neighbors, transfer.linear)
    }
    found = {
        name: round((answers == test.labels).double().mean().item(), 4)
        for name, answers in says.items()
    }
    if model is not None:
        two_tokens = isinstance(model, DistilledVisionTransformer)
        torch.manual_seed(task["seed"])
        for name in ("head", "head_dist") if two_tokens else ("head",):
            getattr(model, name).reset_parameters()
        settings = {
            "seed": task["seed"],
            "epochs": transfer.EPOCHS,
            "lr": transfer.RATE,
        }
        loss_fn = both_learn_the_labels if two_tokens else None
        learn(model, train, data, loss_fn=loss_fn, **settings)
        found["fine-tuned"] = round(evaluate(model, test).accuracy, 4)
    return {"accuracy": found}


def at_its_size(teacher: Teacher) -> Callable:
    """Return a teacher that is asked about images of the size that it has learned."""
    side = STUDENT["image_size"]
    resample = partial(F.interpolate, size=(side, side), mode="bicubic", antialias=True)
    return lambda images: teacher(resample(images))


def refine(task: dict, data: str) -> dict:
    """Train a student of the main part on, at its own or at a larger image size."""
    arm, seed, size = task["arm"], task["seed"], task["size"]
    augment = task["augment"]
    model = at_image_size(trained_student(arm, seed, data), size)
    teacher = Teacher(trained_teacher("same", seed, augment, data)[0])
    if task["by"] == "teacher at 32":
        teacher = at_its_size(teacher)
    how = {
        "arm": "two class tokens" if (arm, task["by"]) == ("token", "labels") else arm
    }
    learn(
        model,
        enlarged(drawn(data, seed, augment), size),
        data,
        loss_fn=loss_of(how, teacher),
        **among(task, "seed", "epochs", "lr"),
    )
    return measure(model, enlarged(cifar(data).test, size), teacher)


def run(task: dict, data: str) -> dict:
    """Run a task in a process of its own; return what it measured."""
    torch.set_num_threads(1)
    RUNS.mkdir(parents=True, exist_ok=True)
    if task["part"] == "transfer":
        return carry_over(task, data)
    if task["part"] == "finer":
        return refine(task, data)
    if task["arm"] != "teacher":
        return train_student(task, data)
    model, _ = trained_teacher(task["teacher"], task["seed"], task["augment"], data)
    crops = drawn(data, task["seed"], task["augment"])
    last = crops.batches(2000, seed=task["seed"], epoch=EPOCHS - 1)
    images, labels = next(last)
    with torch.inference_mode():
        says = model(images).argmax(dim=1)
    chooses = task["seed"] == TUNING_SEED
    split = cifar(data).validation if chooses else cifar(data).test
    return {
        "accuracy": {"class": round(evaluate(model, split).accuracy, 4)},
        "says the label of a crop": round((says == labels).float().mean().item(), 4),
    }


def perform(
    name: str,
    *,
    command: str,
    workers: int | None = None,
    data: str = "cifar10",
    plan: bool = False,
    parts: Sequence[str] | None = None,
) -> Path:
    """Run the study, as far as its record does not hold it; return its path."""
    path, settings = DATA / "results" / f"{name}.json", SETTINGS | {"data": data}
    if unknown := {*(parts or ())} - PARTS.keys():
        raise ValueError(f"no part {min(unknown)}: there are {', '.join(PARTS)}")
    runs = reload(path, settings)["runs"]
    print(planned(runs), flush=True)
    if plan:
        return path
    how = {"settings": settings, "command": command, "workers": workers}
    wanted = NEEDED | {*(parts or PARTS)}
    if "SGD" in wanted:
        wanted.add("SGD rates")
    for part in PARTS:
        if part in wanted:
            known = [row["task"] for row in runs]
            fresh = [t for t in tasks_of(part, choices(runs)) if t not in known]
            runs = record(path, known + fresh, partial(run, data=data), **how)["runs"]
    print(conclusion(runs))
    return path


# ---- What follows from it ----


def conclusion(runs: list[dict]) -> str:
    """Return the primary contrasts of the main part, with their verdicts."""
    lines = []
    for a, b in PRIMARY:
        both = [accuracies(runs, arm) for arm in (a, b)]
        if len(both[0]) < len(SEEDS) or len(both[1]) < len(SEEDS):
            return "the main part is not complete: nothing is concluded"
        sure = corrected(len(PRIMARY))
        decides, beside = paired(*both, sure), unpaired(*both, sure)
        lines.append(
            f"{a} - {b}: {decides.mean:+.2f} ± {decides.half:.2f} points paired "
            f"(± {beside.half:.2f} unpaired): {decides.verdict}"
        )
    alone, taught = (fmean(accuracies(runs, arm)) for arm in ("none", "hard"))
    teacher = fmean(accuracies(runs, "none", "teacher"))
    lines.append(
        f"teacher {teacher:.1f} %, none {alone:.1f} %, of which gap hard closes "
        f"{(taught - alone) / (teacher - alone):.0%}"
    )
    return "\n".join(lines)


def accuracies(
    runs: list[dict], arm: str, head: str | None = None, part: str = "main"
) -> list[float]:
    """Return an arm's test accuracies in per cent, seed by seed."""
    rows = [r for r in runs if (r["task"]["part"], r["task"]["arm"]) == (part, arm)]
    rows.sort(key=lambda row: row["task"]["seed"])
    seeds = [row["task"]["seed"] for row in rows]
    if len({*seeds}) < len(seeds):
        raise ValueError(f"{part}, {arm}: the record has a seed twice ({seeds})")
    return [100 * row["accuracy"][head or head_of(row["task"])] for row in rows]
