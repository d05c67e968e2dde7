"""Distillation: losses by hand, a teacher that nothing moves."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vitutils.data import Dataset
from vitutils.data.splits import MemorySplit
from vitutils.deit import DistilledVisionTransformer
from vitutils.distill import ConvNet, Teacher, hard_distillation, soft_distillation
from vitutils.engine.checkpoints import load_model, save_model
from vitutils.engine.folder_run import FolderRun
from vitutils.train import fit, parameter_groups

SIZES = {
    "image_size": 8,
    "patch_size": 4,
    "in_channels": 1,
    "num_classes": 3,
    "embed_dim": 8,
    "depth": 1,
    "num_heads": 2,
    "mlp_dim": 16,
}
close = torch.testing.assert_close
STUDENT = torch.tensor([[2.0, 0.0, -1.0], [0.5, 1.5, 0.0]], dtype=torch.double)
OTHER = torch.tensor([[0.0, 1.0, 0.5], [-1.0, 0.0, 2.0]], dtype=torch.double)
TEACHER = torch.tensor([[1.0, 3.0, 0.0], [0.0, 2.0, -2.0]], dtype=torch.double)
LABELS = torch.tensor([0, 1])


def softmax(logits):
    powers = [math.exp(value) for value in logits]
    return [power / sum(powers) for power in powers]


def soft_by_hand(class_logits, distill_logits, tau, balance):
    total = 0.0
    for c, d, t, y in zip(
        class_logits.tolist(),
        distill_logits.tolist(),
        TEACHER.tolist(),
        LABELS.tolist(),
        strict=True,
    ):
        p = softmax([value / tau for value in t])
        q = softmax([value / tau for value in d])
        divergence = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        entropy = -math.log(softmax(c)[y])
        total += (1 - balance) * entropy + balance * tau**2 * divergence
    return total / len(LABELS)


@pytest.mark.parametrize(
    ("tau", "balance"), [(1.0, 0.5), (3.0, 0.1), (20.0, 1.0), (2.0, 0.0)]
)
def test_soft_distillation_equals_the_formula(tau, balance):
    settings = {"temperature": tau, "balance": balance}
    if (tau, balance) == (3.0, 0.1):
        settings = {}  # the defaults, DeiT's
    loss = soft_distillation(STUDENT, LABELS, TEACHER, **settings)
    assert loss.item() == pytest.approx(soft_by_hand(STUDENT, STUDENT, tau, balance))
    loss = soft_distillation((STUDENT, OTHER), LABELS, TEACHER, **settings)
    assert loss.item() == pytest.approx(soft_by_hand(STUDENT, OTHER, tau, balance))


def test_hard_distillation_equals_the_formula():
    def cross_entropy(logits, labels):
        pairs = zip(logits.tolist(), labels, strict=True)
        return sum(-math.log(softmax(row)[y]) for row, y in pairs) / 2

    answers = [1, 1]  # the teacher's largest logits
    expected = (cross_entropy(STUDENT, [0, 1]) + cross_entropy(OTHER, answers)) / 2
    loss = hard_distillation((STUDENT, OTHER), LABELS, TEACHER)
    assert loss.item() == pytest.approx(expected)
    expected = (cross_entropy(STUDENT, [0, 1]) + cross_entropy(STUDENT, answers)) / 2
    loss = hard_distillation(STUDENT, LABELS, TEACHER)
    assert loss.item() == pytest.approx(expected)


def test_a_teacher_turned_around_changes_the_loss():
    for loss in (soft_distillation, hard_distillation):
        other = loss(STUDENT, LABELS, -TEACHER)
        assert not torch.isclose(loss(STUDENT, LABELS, TEACHER), other)


def test_a_student_equal_to_its_teacher_has_no_divergence():
    loss = soft_distillation(TEACHER, LABELS, TEACHER, balance=1.0)
    assert loss.item() == pytest.approx(0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"temperature": 0.0}, "temperature 0.0 is not above 0"),
        ({"temperature": -1}, "temperature -1 is not above 0"),
        ({"temperature": math.nan}, "temperature nan is not above 0"),
        ({"balance": 1.5}, r"balance 1.5 is not in \[0, 1\]"),
        ({"balance": -0.1}, r"balance -0.1 is not in \[0, 1\]"),
    ],
)
def test_wrong_settings_are_named(arguments, words):
    with pytest.raises(ValueError, match=words):
        soft_distillation(STUDENT, LABELS, TEACHER, **arguments)


@pytest.mark.parametrize("loss", [soft_distillation, hard_distillation])
@pytest.mark.parametrize("outputs", [STUDENT, (STUDENT, OTHER)])
def test_a_teacher_with_other_classes_is_refused(loss, outputs):
    words = r"teacher \(2, 4\), student \(2, 3\); images and classes must agree"
    with pytest.raises(ValueError, match=words):
        loss(outputs, LABELS, torch.zeros(2, 4))


def small_data():
    torch.manual_seed(0)
    images = torch.randint(256, (40, 1, 8, 8), dtype=torch.uint8)
    split = MemorySplit(labels=torch.arange(40) % 3, images=images)
    return Dataset("small", split, split, split, ("a", "b", "c"))


def test_nothing_moves_the_teacher(tmp_path):
    torch.manual_seed(0)
    model = ConvNet(in_channels=1, num_classes=3, widths=(4, 4, 4)).train()
    teacher = Teacher(model)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    deit = DistilledVisionTransformer(**SIZES)
    fit(
        deit,
        small_data(),
        epochs=2,
        loss_fn=teacher.teaches(hard_distillation),
        run=FolderRun(tmp_path),
        device="cpu",
        progress=False,
    )
    for state in (teacher.model.state_dict(), model.state_dict()):
        assert all(torch.equal(state[key], value) for key, value in before.items())
    assert not teacher.model.training
    assert model.training, "the caller's model stays as it was"
    assert all(p.requires_grad for p in model.parameters())
    assert all(p.grad is None for p in teacher.model.parameters())
    saved = load_model(tmp_path / "best.safetensors").state_dict()
    assert saved.keys() == DistilledVisionTransformer(**SIZES).state_dict().keys()
    count = sum(len(group["params"]) for group in parameter_groups(deit, 0.05))
    assert count == len(list(deit.parameters()))


def test_a_teacher_answers_without_gradients_where_its_images_are():
    teacher = Teacher(ConvNet(in_channels=1, num_classes=3, widths=(4, 4)))
    assert not any(p.requires_grad for p in teacher.model.parameters())
    images = torch.randn(2, 1, 8, 8, requires_grad=True)
    assert not teacher(images).requires_grad
    assert teacher(images.to("meta")).device.type == "meta"


def test_the_teacher_sees_the_augmented_images_that_the_student_sees():
    seen = []

    class Recorder(nn.Module):
        def __init__(self, name):
            super().__init__()
            self.name, self.scale = name, nn.Parameter(torch.ones(3))

        def forward(self, images):
            if self.training or self.name == "teacher":
                seen.append((self.name, images.clone()))
            return images.mean(dim=(1, 2, 3))[:, None] * self.scale

    student = Recorder("student")
    loss_fn = Teacher(Recorder("teacher")).teaches(soft_distillation)
    data = small_data()
    fit(student, data, epochs=1, loss_fn=loss_fn, device="cpu", progress=False)
    (who, ours), (whose, theirs) = seen
    assert (who, whose) == ("student", "teacher")
    assert torch.equal(ours, theirs)
    plain = next(data.train.batches(128, seed=None))[0]
    assert not torch.equal(
        ours.sum(dim=(1, 2, 3)).sort().values, plain.sum(dim=(1, 2, 3)).sort().values
    )


def test_gradients_reach_both_tokens_and_no_teacher():
    torch.manual_seed(0)
    deit = DistilledVisionTransformer(**SIZES)
    teacher = Teacher(ConvNet(in_channels=1, num_classes=3, widths=(4, 4, 4)))
    images = torch.randn(6, 1, 8, 8)
    loss_fn = teacher.teaches(hard_distillation)
    loss_fn(deit(images), torch.arange(6) % 3, images).backward()
    for name, parameter in deit.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name


def test_the_convnet_equals_torchs_functions():
    torch.manual_seed(0)
    model = ConvNet(in_channels=3, num_classes=5, widths=(4, 8, 6)).eval()
    stages, images = [], torch.randn(2, 3, 16, 12)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for parameter in (*module.parameters(), *module.buffers()):
                parameter.data = torch.rand_like(parameter.float())
            stages[-1].append(module)
        if isinstance(module, nn.Conv2d):
            assert module.kernel_size == (3, 3) and module.bias is None
            stages.append([module])
    x = images
    for conv, norm in stages:
        x = F.conv2d(x, conv.weight, padding=1)
        mean, var = norm.running_mean, norm.running_var
        x = F.batch_norm(x, mean, var, norm.weight, norm.bias)
        x = F.max_pool2d(F.relu(x), 2)
    close(model(images), model.head(x.flatten(2).mean(dim=2)))
    assert [conv.out_channels for conv, _ in stages] == [4, 8, 6]


def test_the_convnets_config_is_plain_and_names_every_argument():
    expected = {"in_channels": 1, "num_classes": 3, "widths": [32, 64, 128]}
    assert ConvNet(in_channels=1, num_classes=3).config == expected


def test_the_convnet_computes_with_channels_last():
    """On CPUs that is faster, whatever way the images come."""
    model, lie = ConvNet(in_channels=3, num_classes=5, widths=(4, 8)), []
    for module in model.stages[::4]:
        lie.append(module.weight)
        module.register_forward_pre_hook(lambda _, images: lie.append(*images))
    model(torch.randn(2, 3, 8, 8))
    assert len(lie) == 4
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x in lie)


def test_the_convnet_learns_saves_and_takes_any_size(tmp_path):
    torch.manual_seed(0)
    model = ConvNet(in_channels=3, num_classes=5, widths=(4, 8))
    assert model(torch.randn(2, 3, 17, 30)).shape == (2, 5)
    images, labels = torch.randn(20, 3, 8, 8), torch.arange(20) % 5
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(60):
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.5
    save_model(model, tmp_path / "cnn.safetensors")
    loaded = load_model(tmp_path / "cnn.safetensors")
    assert torch.equal(loaded(images), model.eval()(images))
