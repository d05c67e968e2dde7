"""What runs on a CUDA device computes what the CPU computes, and learns.

Without a device these tests are skipped. VITUTILS_CUDA_TESTS_ON=cpu runs them on the
CPU, where they prove their own code and say nothing of CUDA.
"""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import timm
import torch
import torch.nn.functional as F

from vitutils.attention import MultiHeadAttention, ScaledDotProductAttention
from vitutils.data import augmentation
from vitutils.data.splits import MemorySplit
from vitutils.deit import DistilledVisionTransformer
from vitutils.distill import ConvNet, Teacher, hard_distillation
from vitutils.engine.checkpoints import load_model, save_model
from vitutils.engine.folder_run import FolderRun
from vitutils.engine.large_step import LargeStep, evaluate_together
from vitutils.engine.precision import MixedPrecision
from vitutils.pretrained import load_pretrained
from vitutils.train import Step, evaluate, fit
from vitutils.vit import VisionTransformer

DEVICE = os.environ.get("VITUTILS_CUDA_TESTS_ON", "cuda")
pytestmark = pytest.mark.cuda
# Read by cuBLAS when it is first used: with it the same product gives the same bits.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# Largest relative error (of the norm) between two ways to compute attention: some
# units of each format's last place, 6e-8, 4e-3 and 5e-4.
TOLERANCE = {"fp32": 1e-5, "bf16": 2e-2, "fp16": 3e-3}
SETTINGS = dict(epochs=4, batch_size=16, lr=1.5e-2, progress=False, device=DEVICE)


@pytest.fixture(autouse=True)
def device_and_its_arithmetic():
    """Skip without a device; with one, fp32 means fp32 and not TF32."""
    if DEVICE == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    kinds = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [kind.allow_tf32 for kind in kinds]
    for kind in kinds:
        kind.allow_tf32 = False
    yield
    for kind, value in zip(kinds, before, strict=True):
        kind.allow_tf32 = value


@pytest.fixture
def deterministic():
    """Kernels that give the same bits each time, also backward through attention."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def data():
    return SimpleNamespace(train=bright_halves(100, 0), validation=bright_halves(50, 1))


def bright_halves(count, seed):
    """Images of 8x8 pixels, on the device, whose brighter half tells their class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(2, (count,), generator=generator)
    images = torch.randn(count, 1, 8, 8, generator=generator) / 2
    bright = (torch.arange(8) // 4 == labels[:, None])[:, None, None]
    pixels = (128 + 25 * (images + 2 * bright)).round().clamp(0, 255)
    pixels = pixels.to(torch.uint8).to(DEVICE)
    return MemorySplit(
        labels=labels, images=pixels, augment=None, mean=(0.5,), std=(0.1,)
    )


def small_vit(cls=VisionTransformer, **changes):
    torch.manual_seed(0)
    sizes = dict(image_size=8, patch_size=4, in_channels=1, num_classes=2)
    sizes |= dict(embed_dim=16, depth=2, num_heads=2, mlp_dim=32)
    return cls(**sizes | changes)


def same_weights(a, b):
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(x.cpu(), y.cpu()) for x, y in pairs)


def relative_error(found, expected):
    found, expected = found.double(), expected.double()
    return ((found - expected).norm() / expected.norm()).item()


# Precision.


@pytest.mark.skipif(DEVICE == "cpu", reason="auto is fp32 on a CPU")
def test_auto_precision_is_16_bits_on_cuda():
    ampere = torch.cuda.get_device_capability() >= (8, 0)
    amp = MixedPrecision("auto", torch.device(DEVICE))
    assert amp.dtype == (torch.bfloat16 if ampere else torch.float16)
    assert amp.scaler.is_enabled() == (not ampere)
    with amp.autocast():
        product = torch.ones(8, 8, device=DEVICE) @ torch.ones(8, 8, device=DEVICE)
    assert product.dtype == amp.dtype


def test_fp16_scales_the_loss_and_steps_down_the_true_gradient():
    amp = MixedPrecision("fp16", torch.device(DEVICE))
    weight = torch.nn.Parameter(torch.tensor([3.0, 4.0], device=DEVICE))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    amp.backward(weight.square().sum() / 2)
    assert weight.grad.tolist() == [3 * 2**16, 4 * 2**16]
    amp.step(optimizer, clip_norm=1.0)  # of a norm of 5
    assert weight.grad.tolist() == pytest.approx([0.6, 0.8])
    assert weight.tolist() == pytest.approx([2.4, 3.2])


def test_fp16_skips_a_step_that_overflows_and_halves_the_scale():
    amp = MixedPrecision("fp16", torch.device(DEVICE))
    weight = torch.nn.Parameter(torch.ones(2, device=DEVICE))
    optimizer = torch.optim.AdamW([weight], lr=1.0, fused=True)
    amp.backward((weight * float("inf")).sum())
    amp.step(optimizer, clip_norm=1.0)
    assert weight.tolist() == [1.0, 1.0]
    assert amp.scaler.get_scale() == 2**15


# Training.


@pytest.mark.parametrize(
    "step",
    [
        Step,
        partial(LargeStep, precision="fp32"),
        partial(LargeStep, precision="bf16"),
        partial(LargeStep, precision="fp16"),
        partial(LargeStep, precision="bf16", accumulate=3),
        partial(LargeStep, precision="bf16", average=0.8),
        partial(
            LargeStep,
            precision="bf16",
            mix=augmentation.mixing(2, mixup=0.2, cutmix=1.0),
        ),
    ],
    ids=["step", "fp32", "bf16", "fp16", "accumulate", "average", "mix"],
)
def test_fit_learns(data, step):
    model = small_vit(dropout=0.1, stochastic_depth=0.1)
    history = fit(model, data, step=step, **SETTINGS | {"epochs": 8})
    assert history[-1]["val_accuracy"] > 0.9
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert {p.device.type for p in model.parameters()} == {DEVICE}


def test_fit_takes_the_same_steps_as_on_the_cpu(data):
    there, here = small_vit(), small_vit()
    settings = SETTINGS | {"epochs": 1, "lr": 1e-3}
    on_device = fit(there, data, **settings)
    on_cpu = fit(here, data, **settings | {"device": "cpu"})
    assert on_device[0]["train_loss"] == pytest.approx(on_cpu[0]["train_loss"], 1e-4)
    # Not the weights: the keys' bias has no gradient but rounding, which Adam enlarges.
    found, expected = (evaluate(m, data.validation).logits for m in (there, here))
    assert relative_error(found, expected) < 1e-3


def test_a_student_learns_from_a_teacher_on_the_device(data):
    torch.manual_seed(0)
    convnet = ConvNet(in_channels=1, num_classes=2, widths=(8, 16))
    bf16 = partial(LargeStep, precision="bf16")
    fit(convnet, data, step=bf16, **SETTINGS)
    loss_fn = Teacher(convnet).teaches(hard_distillation)
    deit = small_vit(DistilledVisionTransformer)
    history = fit(deit, data, step=bf16, loss_fn=loss_fn, **SETTINGS | {"epochs": 8})
    assert history[-1]["val_accuracy"] > 0.9


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_an_interrupted_run_resumes_to_the_same_bits(
    data, tmp_path, deterministic, precision
):
    """With dropout, mixing, an average, and images that are augmented on the device.

    It takes deterministic algorithms and CUBLAS_WORKSPACE_CONFIG, above: without them
    the backward pass of fused attention adds up in any order.
    """
    data.train = replace(data.train, augment=augmentation.random_resized_crop)
    settings = SETTINGS | dict(
        step=partial(
            LargeStep,
            precision=precision,
            average=0.9,
            accumulate=2,
            mix=augmentation.mixing(2, mixup=0.8, cutmix=1.0),
        )
    )
    made = partial(small_vit, dropout=0.1, stochastic_depth=0.1)
    whole, calls = made(), []
    history = fit(whole, data, run=FolderRun(tmp_path / "whole"), **settings)

    def interrupt(logits, labels, images):
        calls.append(1)
        if len(calls) == 19:  # two calls a step: in the tenth of 28
            os.kill(os.getpid(), signal.SIGINT)
        return F.cross_entropy(logits, labels)

    run = partial(FolderRun, tmp_path / "cut")
    with pytest.raises(KeyboardInterrupt, match="stopped after step 10"):
        fit(made(), data, run=run(), loss_fn=interrupt, **settings)
    resumed = made()
    again = fit(resumed, data, run=run(resume=True), **settings)
    assert same_weights(whole, resumed)
    for name in ("train_loss", "val_loss", "val_accuracy", "lr"):
        assert [row[name] for row in again] == [row[name] for row in history]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_evaluate_together_counts_each_image_once(data, precision):
    model = small_vit().to(DEVICE).train()
    amp = MixedPrecision(precision, torch.device(DEVICE))
    found = evaluate_together(model, data.validation, amp)
    plain = evaluate(model, data.validation)
    assert model.training
    assert found.logits.device.type == "cpu" and found.logits.dtype == torch.float32
    assert torch.equal(found.labels, data.validation.labels)
    error = relative_error(found.logits, plain.logits)
    assert error <= {"fp32": 0, "bf16": 3e-2}[precision]


# Data.


@pytest.mark.parametrize("resident", [False, True])
@pytest.mark.parametrize("name", ["flip", "shift_and_flip", "random_resized_crop"])
def test_augmentation_draws_what_it_draws_on_the_cpu(name, resident):
    """To the bit; where pixels are resampled, to one gray level in few of them."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (64, 3, 32, 32), generator=generator).to(torch.uint8)
    split = MemorySplit(
        labels=torch.arange(64),
        images=images,
        augment=getattr(augmentation, name),
        mean=(0.0,) * 3,
        std=(1 / 255,) * 3,  # batches in gray levels
    )
    there = replace(split, images=images.to(DEVICE)) if resident else split
    on_cpu = split.batches(16, seed=0)
    on_device = there.batches(16, seed=0, device=DEVICE)
    for (here, labels), (found, same) in zip(on_cpu, on_device, strict=True):
        assert found.device.type == same.device.type == DEVICE
        assert torch.equal(labels, same.cpu())
        difference = (found.cpu() - here).abs()
        if name == "random_resized_crop":
            assert difference.max() < 1.01
            assert (difference > 0.01).double().mean() < 0.01
        else:
            assert difference.max() < 1e-3


def test_mixing_draws_what_it_draws_on_the_cpu():
    images, labels = torch.rand(16, 3, 8, 8), torch.arange(16) % 4
    mix = augmentation.mixing(4, mixup=0.8, cutmix=1.0)
    for seed in range(8):
        torch.manual_seed(seed)
        here = mix(images, labels)
        torch.manual_seed(seed)
        there = mix(images.to(DEVICE), labels.to(DEVICE))
        for a, b in zip(here, there, strict=True):
            assert b.device.type == DEVICE
            torch.testing.assert_close(b.cpu(), a)


# Models and kernels.


def both_ways(dtype, mask):
    """Return output, gradients of q, k, v: by the explicit product, by the kernel."""
    generator = torch.Generator().manual_seed(0)
    q, k, v, up = torch.randn(4, 2, 3, 197, 64, generator=generator).to(DEVICE, dtype)
    for attention in (
        lambda q, k, v: ScaledDotProductAttention()(q, k, v, mask)[0],
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=mask),
    ):
        inputs = [x.clone().requires_grad_() for x in (q, k, v)]
        out = attention(*inputs)
        out.backward(up)
        yield [out, *(x.grad for x in inputs)]


def random_mask():
    generator = torch.Generator().manual_seed(0)
    return torch.rand(2, 1, 197, 197, generator=generator) < 0.5


@pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_fused_kernel_computes_what_the_explicit_product_does(dtype, masked):
    mask = random_mask().to(DEVICE) if masked else None
    for explicit, fused in zip(*both_ways(DTYPES[dtype], mask), strict=True):
        assert relative_error(fused, explicit) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_query_that_sees_no_key_gets_zeros_by_either_way(dtype):
    """torch's kernels for 16 bits gave it a mean of the values on an H200."""
    torch.manual_seed(0)
    attention = MultiHeadAttention(embed_dim=96, num_heads=3)
    attention.to(DEVICE, DTYPES[dtype])
    attention.proj.weight.data = torch.eye(96).to(attention.proj.weight)
    attention.proj.bias.data.zero_()
    x = torch.randn(2, 197, 96).to(DEVICE, DTYPES[dtype]).requires_grad_()
    mask = random_mask()
    mask[0, 0, 5] = False
    found = []
    for need_weights in (True, False):
        out, _ = attention(x, mask=mask.to(DEVICE), need_weights=need_weights)
        assert out[0, 5].abs().max() == 0 and out[1, 5].abs().max() > 0
        (gradient,) = torch.autograd.grad(out.square().sum(), x)
        found.append((out, gradient))
    for explicit, fused in zip(*found, strict=True):
        assert relative_error(fused, explicit) < 2 * TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
def test_attention_agrees_with_and_without_weights(dtype):
    torch.manual_seed(0)
    attention = MultiHeadAttention(embed_dim=96, num_heads=3)
    attention.to(DEVICE, DTYPES[dtype])
    x = torch.randn(2, 197, 96).to(DEVICE, DTYPES[dtype])
    with torch.no_grad():
        explicit, weights = attention(x, need_weights=True)
        fast, none = attention(x)
        first, _ = attention(x[:, :1], context=x)
    assert weights.shape == (2, 3, 197, 197) and none is None
    assert relative_error(fast, explicit) < TOLERANCE[dtype]
    assert relative_error(first, explicit[:, :1]) < TOLERANCE[dtype]


def test_the_model_equals_timms(tmp_path):
    torch.manual_seed(0)
    theirs = timm.create_model("vit_tiny_patch16_224").eval()
    with torch.no_grad():
        for parameter in theirs.parameters():  # zeros and ones would hide a fault
            parameter += 0.02 * torch.randn_like(parameter)
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    ours = load_pretrained(str(tmp_path / "weights.pth"), num_heads=3).to(DEVICE)
    images = torch.randn(4, 3, 224, 224, device=DEVICE)
    with torch.inference_mode():
        found, expected = ours(images), theirs.to(DEVICE)(images)
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("cls", [VisionTransformer, DistilledVisionTransformer])
def test_a_model_is_saved_from_the_device_and_loaded_to_it(cls, tmp_path):
    model = small_vit(cls).to(DEVICE).eval()
    save_model(model, tmp_path / "model.safetensors")
    loaded = load_model(tmp_path / "model.safetensors")
    assert {p.device.type for p in loaded.parameters()} == {"cpu"}
    assert same_weights(loaded, model)
    images = torch.randn(4, 1, 8, 8)
    with torch.inference_mode():
        there, here = model(images.to(DEVICE)).cpu(), loaded(images)
        again = loaded.to(DEVICE)(images.to(DEVICE)).cpu()
    torch.testing.assert_close(here, there, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(again, there, atol=1e-6, rtol=1e-5)


def test_a_compiled_model_agrees():
    """In training, forward and backward, and in eval mode."""
    model = small_vit(depth=1).to(DEVICE)
    images = torch.randn(16, 1, 8, 8, device=DEVICE)
    found = {}
    for way in ("plain", "compiled"):
        if way == "compiled":
            model.compile()
        model.train().zero_grad()
        logits = model(images)
        logits.square().sum().backward()
        found[way] = [logits.detach(), *(p.grad.clone() for p in model.parameters())]
        with torch.inference_mode():
            found[way].append(model.eval()(images).clone())
    for plain, compiled in zip(*found.values(), strict=True):
        torch.testing.assert_close(compiled, plain, atol=1e-5, rtol=1e-3)


# Processes. NCCL takes one process a device; more of them share what is on the CPU.

PROGRAM = """
import sys
sys.path[:0] = [{tests!r}, {root!r}]
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from test_cuda import *

device, folder = sys.argv[1:]
torch.set_num_threads(1)
from vitutils import processes
with processes.joined():
    for place in {{"cpu", device}}:  # gloo, and NCCL on CUDA
        ones = torch.ones(3, device=place)
        dist.all_reduce(ones)
        assert ones.tolist() == [processes.count()] * 3
    plain, wrapped = small_vit().to(device), small_vit().to(device)
    net = DistributedDataParallel(wrapped)
    images = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    for module in (plain, net):
        module(images.to(device)).square().sum().backward()
    for a, b in zip(plain.parameters(), wrapped.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)
    processes.copy_buffers(plain)
    train = replace(bright_halves(100, 0), images=bright_halves(100, 0).images.cpu())
    held_out = replace(bright_halves(50, 1), images=bright_halves(50, 1).images.cpu())
    model = small_vit()
    history = fit(
        model,
        SimpleNamespace(train=train, validation=held_out),
        step=partial(LargeStep, precision="bf16", accumulate=2, average=0.5),
        run=FolderRun(folder),
        **SETTINGS | {{"device": device, "epochs": 8}},
    )
    assert history[-1]["val_accuracy"] > 0.9, history[-1]
    mine = torch.cat([p.detach().cpu().flatten() for p in model.parameters()])
    first = mine.clone()
    dist.broadcast(first, 0)
    assert torch.equal(mine, first)  # the same weights in all processes
    if processes.rank() == 0:
        print("backend", dist.get_backend_config())
"""


@pytest.mark.parametrize("world, device", [(1, DEVICE), (2, "cpu")])
def test_processes_train_under_torchrun(tmp_path, world, device):
    tests, program = Path(__file__).parent, tmp_path / "program.py"
    program.write_text(PROGRAM.format(tests=str(tests), root=str(tests.parent)))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    launch += [f"--nproc-per-node={world}", str(program), device, str(tmp_path / "run")]
    environment = os.environ | {"VITUTILS_CUDA_TESTS_ON": device}
    if device == "cpu":  # two processes have one device at most: hide it from both
        environment["CUDA_VISIBLE_DEVICES"] = ""
    done = subprocess.run(
        launch, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert ("nccl" in done.stdout) == (device == "cuda")
