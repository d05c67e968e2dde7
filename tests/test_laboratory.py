"""The laboratory: its mathematics against PyTorch's, its files, and its page."""

import copy
import json
import os
import re
import shutil
import subprocess
from contextlib import contextmanager
from html import escape
from pathlib import Path

import laboratory as tool
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from laboratory import LAB, MODELS, ROOT, TEST_IMAGES
from playwright.sync_api import expect
from test_book import opened
from test_explorer import HEAR, INSERT
from test_explorer import opened as opened_file
from test_looks import AXE, BARRIERS, FITS, LEGIBLE, faults

from vitutils.data import DATA, load
from vitutils.deit import DistilledVisionTransformer
from vitutils.distill import hard_distillation
from vitutils.engine.checkpoints import load_model, read_preprocessing
from vitutils.plot.laboratory import STATIC, laboratory, rounded
from vitutils.train import Step, parameter_groups, warmup_cosine
from vitutils.vit import VisionTransformer

BIOME = ROOT / ".venv" / "biome" / "node_modules" / ".bin" / "biome"
NO_BIOME = "no Biome found: install npm and run .ci/run"
TINY = {
    "image_size": 8,
    "patch_size": 2,
    "in_channels": 1,
    "num_classes": 10,
    "embed_dim": 32,
    "depth": 2,
    "num_heads": 4,
    "mlp_dim": 64,
}
# Read the page's scripts as a browser does, a file's data by `load`; then run `source`.
PROGRAM = """
const fs = require("fs"), vm = require("vm"), [, folder, scripts] = process.argv;
const utf16 = new TextDecoder("utf-16le");
const read = (name) => utf16.decode(fs.readFileSync(folder + name));
const run = (name) => vm.runInThisContext(fs.readFileSync(scripts + name, "utf8"));
["vit.js", "state.js"].forEach(run);
lab.load = (name) => lab.files[name] ?? new Promise((resolve) => {
  lab.waiting[name] = resolve;
  vm.runInThisContext(read(name + ".js"));
});
const math = lab.mathematics();
const modelOf = ({ config, parameters }) => {
  for (const name in parameters)
    parameters[name] = Float32Array.from(parameters[name].flat(9));
  return { config, parameters };
};
const plain = (value) => ArrayBuffer.isView(value) ? [...value]
  : Array.isArray(value) ? value.map(plain)
  : value && typeof value === "object"
  ? Object.fromEntries(Object.entries(value).map(([key, part]) => [key, plain(part)]))
  : value;
(async (given) => { %s })(JSON.parse(fs.readFileSync(0))).then(
  (found) => process.stdout.write(JSON.stringify(plain(found))));
"""


def run_js(source, **given):
    """Run JavaScript beside the page's scripts, `math` and `given`."""
    if not shutil.which("node"):
        (pytest.fail if os.environ.get("CI") else pytest.skip)(
            "no node: install nodejs"
        )
    command = ["node", "-e", PROGRAM % source, f"{LAB}/", f"{STATIC}/"]
    done = subprocess.run(
        command, input=json.dumps(given), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def described(model):
    """Return a model as vit.js has it."""
    distilled = isinstance(model, DistilledVisionTransformer)
    parameters = {key: value.tolist() for key, value in model.state_dict().items()}
    return {"config": model.config | {"distilled": distilled}, "parameters": parameters}


def images_for(name, count):
    """Return (pixels from 0 to 255, the model's normalized images)."""
    path = DATA / "checkpoints" / f"{name}.safetensors"
    wanted = read_preprocessing(path, {})
    if name.endswith("cifar10"):
        generator = torch.Generator().manual_seed(0)
        pixels = torch.randint(256, (count, 3, 32, 32), generator=generator)
    else:
        pixels = load("fashion_mnist").test.images[:count]
    return pixels, wanted.normalize(pixels)


# ---- the mathematics ----


@pytest.mark.slow(2)
@pytest.mark.parametrize("name", MODELS)
def test_logits_are_the_checkpoints(name):
    count = 8 if name.endswith("cifar10") else 24
    pixels, images = images_for(name, count)
    found = run_js(
        """const model = await lab.model(given.name);
        return given.pixels.map((pixels) => {
          const trace = math.forward(model, lab.normalize(pixels.flat(9), model));
          const lens = math.lens(model, trace).at(-1).answer;
          return { answer: trace.answer, logits: trace.logits, lens };
        });""",
        name=name,
        pixels=pixels.tolist(),
    )
    model = load_model(DATA / "checkpoints" / f"{name}.safetensors")
    with torch.no_grad():
        expected = model(images)
        answers = torch.tensor([each["answer"] for each in found])
        assert (answers - expected).abs().max() < 1e-3
        assert [each["lens"] for each in found] == [each["answer"] for each in found]
        if name.startswith("deit"):
            both = torch.tensor([each["logits"] for each in found])
            heads = torch.stack(model.both_heads(images)[:2], dim=1)
            assert (both - heads).abs().max() < 1e-3


@pytest.mark.parametrize("scaling", [True, False])
@pytest.mark.parametrize("cls", [VisionTransformer, DistilledVisionTransformer])
def test_every_gradient_is_autograds(cls, scaling):
    torch.manual_seed(0)
    model = cls(**TINY)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)  # no zeros, no ones
    images, labels = torch.randn(5, 1, 8, 8), torch.arange(5)
    found = run_js(
        """const model = modelOf(given.model);
        const images = Float32Array.from(given.images.flat(9));
        const trace = math.forward(model, images, { noScaling: !given.scaling });
        const slopes = trace.logits.map(
          (each) => math.crossEntropy(each, given.labels).slopes);
        return math.backward(model, trace, slopes);""",
        model=described(model),
        images=images.tolist(),
        labels=labels.tolist(),
        scaling=scaling,
    )
    if not scaling:
        for block in model.encoder.blocks:
            block.attn.attention.forward = without_scaling
    output = model.train()(images, need_weights=True)
    output = output[0]
    both = output if isinstance(output, tuple) else (output,)
    sum(F.cross_entropy(logits, labels) for logits in both).backward()
    assert found.keys() == model.state_dict().keys()
    for key, parameter in model.named_parameters():
        gradient = torch.tensor(found[key]).view_as(parameter)
        tolerance = 1e-5 * parameter.grad.abs().max() + 1e-7
        assert (gradient - parameter.grad).abs().max() < tolerance, key


@pytest.mark.slow(2)
@pytest.mark.parametrize("cls", [VisionTransformer, DistilledVisionTransformer])
def test_twenty_steps_give_pytorchs_losses(cls):
    model, steps, warmup = cls(**TINY), 20, 4
    with np.load(DATA / "digits" / "digits.npz") as file:
        images = torch.from_numpy(file["images"][:640]).float().view(20, 32, 1, 8, 8)
        labels = torch.from_numpy(file["labels"][:640]).long().view(20, 32)
    images = images / 8 - 1
    teacher = torch.nn.Linear(64, 10)  # its answers, before it has learned anything
    answers = teacher(images.flatten(2)).detach()
    found = run_js(
        """const model = modelOf(given.model), step = math.adamW(model.parameters);
        const { distilled } = model.config;
        return given.images.map((batch, i) => {
          const trace = math.forward(model, Float32Array.from(batch.flat(9)));
          const { loss, slopes } = distilled
            ? math.hardDistillation(trace.logits, given.labels[i], given.answers[i])
            : math.crossEntropy(trace.answer, given.labels[i]);
          const gradients = math.backward(model, trace, distilled ? slopes : [slopes]);
          math.clip(gradients);
          step(gradients, 3e-3 * math.warmupCosine(i, 20, 4));
          return loss;
        });""",
        model=described(model),
        images=images.tolist(),
        labels=labels.tolist(),
        answers=answers.argmax(dim=-1).tolist(),
    )
    optimizer = torch.optim.AdamW(parameter_groups(model.train(), 0.05), lr=3e-3)
    schedule = warmup_cosine(optimizer, steps=steps, warmup_steps=warmup)
    expected = []
    for batch, right, taught in zip(images, labels, answers, strict=True):
        learn = Step(
            model,
            optimizer,
            schedule,
            loss_fn=lambda output, labels, _, taught=taught: (
                hard_distillation(output, labels, taught)
                if isinstance(output, tuple)
                else F.cross_entropy(output, labels)
            ),
            clip_norm=1.0,
        )
        expected.append(learn.gradient(batch, right))
        learn.update()
    assert expected[-1] < 0.9 * expected[0]
    assert np.abs(np.array(found) - expected).max() < 1e-4


def test_the_teacher_learns_as_pytorchs_linear_layer_does():
    with np.load(DATA / "digits" / "digits.npz") as file:
        images = torch.from_numpy(file["images"][:640]).float().view(20, 32, 64) / 8 - 1
        labels = torch.from_numpy(file["labels"][:640]).long().view(20, 32)
    teacher = torch.nn.Linear(64, 10)
    teacher.bias.data.zero_()
    found = run_js(
        """const teacher = math.newTeacher(64, 10), step = math.adamW(teacher);
        teacher.weight.set(given.weight.flat());
        return given.images.map((batch, i) => {
          const { loss, gradients } = math.teacherGradients(
            teacher, Float32Array.from(batch.flat(9)), given.labels[i]);
          step(gradients, 0.01);
          return loss;
        });""",
        weight=teacher.weight.tolist(),
        images=images.tolist(),
        labels=labels.tolist(),
    )
    optimizer = torch.optim.AdamW(parameter_groups(teacher, 0.05), lr=0.01)
    expected = []
    for batch, right in zip(images, labels, strict=True):
        loss = F.cross_entropy(teacher(batch), right)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        expected.append(loss.item())
    assert expected[-1] < 0.6 * expected[0]
    assert np.abs(np.array(found) - expected).max() < 1e-4


# ---- the switches ----


def without_scaling(q, k, v, mask=None):
    weights = (q @ k.transpose(-2, -1)).softmax(dim=-1)
    return weights @ v, weights


def without_residual(self, x, context=None, *, need_weights=False):
    attended, weights = self.attn(self.norm1(x), need_weights=True)
    return self.mlp(self.norm2(attended)), weights


def over_queries(q, k, v, mask=None):
    weights = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(dim=-2)
    return weights @ v, weights


def zero(*layers):
    for layer in layers:
        layer.weight.data.zero_()
        layer.bias.data.zero_()


def broken_by_hand(model, name):
    """Do to a model what a switch of the page does."""
    blocks, D = model.encoder.blocks, model.config["embed_dim"]
    if name == "noPositions":
        model.embeddings.pos_embed.data.zero_()
    for i, block in enumerate(blocks):
        qkv = block.attn.qkv
        if name == "noScaling":
            qkv.weight.data[:D] *= 4  # the root of a head's width, 16
            qkv.bias.data[:D] *= 4
        if name == "oneProjection":
            qkv.weight.data = qkv.weight.data[:D].repeat(3, 1)
            qkv.bias.data = qkv.bias.data[:D].repeat(3)
        if name == "wrongAxis":
            block.attn.attention.forward = over_queries
        if name == "noResidual":
            block.forward = without_residual.__get__(block)
        if name == "noNorm":
            block.norm1 = block.norm2 = torch.nn.Identity()
        if i == 1 and name in ("1", "1.attn"):
            zero(block.attn.proj)
        if i == 1 and name in ("1", "1.mlp"):
            zero(block.mlp.fc2)
        if i == 1 and name == "1.head.2":
            block.attn.proj.weight.data[:, 32:48] = 0
    if name == "noNorm":
        model.encoder.norm = torch.nn.Identity()


FLAGS = [
    "noPositions",
    "noScaling",
    "oneProjection",
    "wrongAxis",
    "noResidual",
    "noNorm",
]
SILENCED = ["1", "1.attn", "1.mlp", "1.head.2"]


@pytest.mark.slow(2)
def test_each_switch_does_to_the_model_what_it_says():
    pixels, images = images_for("vit_fashion_mnist", 4)
    whole = load_model(DATA / "checkpoints" / "vit_fashion_mnist.safetensors")
    for parameter in whole.parameters():  # no residual makes much of the rounding
        parameter.data = torch.from_numpy(rounded(parameter.detach().numpy()))
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0)).tolist()
    found = run_js(
        """const model = await lab.model("vit_fashion_mnist");
        const images = given.pixels.map((each) => lab.normalize(each.flat(9), model));
        const donor = math.forward(model, images[3]).blocks[1].out;
        const cases = {
          shuffle: { shuffle: given.order },
          erased: { erased: new Set([5]), blank: [0] },
          classToken: { classToken: { after: 2, token: donor } },
        };
        for (const name of given.flags) cases[name] = { [name]: true };
        for (const name of given.silenced) cases[name] = { silenced: new Set([name]) };
        for (const name in cases)
          cases[name] = images.map(
            (image) => math.forward(model, image, cases[name]).answer);
        return cases;""",
        pixels=pixels.tolist(),
        order=order,
        flags=FLAGS,
        silenced=SILENCED,
    )
    shuffled, erased = images.clone(), images.clone()
    for to, patch in enumerate(order):
        rows, columns = slice(7 * (to // 4), 7 * (to // 4) + 7), slice(to % 4 * 7, None)
        source = images[..., 7 * (patch // 4) :, patch % 4 * 7 :][..., :7, :7]
        shuffled[..., rows, columns][..., :7] = source
    erased[..., 7:14, 7:14] = 0
    with torch.no_grad():
        expected = {"shuffle": whole(shuffled), "erased": whole(erased)}
        tokens = whole.embeddings(images)
        for i, block in enumerate(whole.encoder.blocks):
            if i == 2:
                tokens[:, 0] = tokens[3, 0].clone()
            tokens, _ = block(tokens)
        expected["classToken"] = whole.head(whole.encoder.norm(tokens[:, 0]))
        for name in FLAGS + SILENCED:
            model = copy.deepcopy(whole)
            broken_by_hand(model, name)
            expected[name] = model(images, need_weights=True)[0]
        assert found.keys() == expected.keys()
        for name, logits in expected.items():
            difference = (torch.tensor(found[name]) - logits).abs().max()
            assert difference < 1e-3 + 1e-4 * logits.abs().max(), name
            if name != "classToken":
                assert (logits - whole(images)).abs().max() > 0.02, name


# ---- the files and the page ----


def test_scripts_are_laid_out_and_without_a_fault():
    if not BIOME.is_file():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(NO_BIOME)
    command = [BIOME, "check", "--error-on-warnings"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}\nmend it: make format"


@pytest.mark.slow(1)
def test_images_and_digits_are_the_books():
    made = {"clothes": tool.clothes_file(), "digits": tool.digits_file()}
    for name, (header, data) in made.items():
        found = run_js("return lab.load(given.name);", name=name)
        assert found["header"] == json.loads(json.dumps(header))
        assert bytes(found["bytes"]) == data
    assert len(made["clothes"][0]["labels"]) == TEST_IMAGES


# What a reader sees of the laboratory: its words, what is chosen, what is drawn.
SEEN = """() => {
  const root = document.getElementById("laboratory");
  const chosen = [...root.querySelectorAll("input, select, button, [role=gridcell]")]
    .map((each) => [each.checked, each.value, each.ariaPressed, each.ariaSelected]);
  const drawn = [...root.querySelectorAll(".lab-picture > canvas")]
    .map((each) => each.toDataURL());
  return JSON.stringify([root.innerText.replace(/\\d+ ms/, ""), chosen, drawn]);
}"""
COVERED = """(control) => {
  const { x, y, width, height } = control.getBoundingClientRect();
  const top = document.elementFromPoint(x + width / 2, y + height / 2);
  return !top || !(control.contains(top) || top.contains(control));
}"""
# What would go to a worker is kept, and nothing computes.
TASKS = """() => {
  globalThis.tasks = [];
  lab.start = (work, task, tell) => {
    tasks.push({ ...task, tell, counts: work === lab.count });
    return () => { tasks.at(-1).ended = true; };
  };
}"""


def main_thread(trace):
    """Return the milliseconds that each task of a page's main thread computed.

    Others that compute on the machine do not count, as they would in a frame's time.
    """
    events = trace["traceEvents"]
    names = {
        (each["pid"], each["tid"]): each["args"]["name"]
        for each in events
        if each["name"] == "thread_name"
    }
    return [
        each["tdur"] / 1000
        for each in events
        if each["name"].endswith("RunTask")
        and "tdur" in each
        and names.get((each["pid"], each["tid"])) == "CrRendererMain"
    ]


@contextmanager
def touched(browser, html):
    """Open the page on a phone that is touched."""
    context = browser.new_context(
        viewport={"width": 390, "height": 800}, has_touch=True
    )
    tab, wrong = context.new_page(), []
    tab.set_default_timeout(20_000)
    tab.on("console", lambda m: m.type in ("error", "warning") and wrong.append(m.text))
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.goto(f"{html.as_uri()}/book/laboratory.html")
    tab.locator("#laboratory:not([aria-busy]) .lab-bars").first.wait_for()
    tab.evaluate(TASKS)
    yield tab
    assert wrong == []
    context.close()


def act(tab, control, means, key=" "):
    """Do to a control what changes it: by a mouse, a finger or the keyboard."""
    options = control.evaluate("(each) => each.options?.length")
    at = control.evaluate("(each) => each.selectedIndex")
    if options and means != "keyboard":  # the list that opens is the browser's own
        control.select_option(index=(at + 1) % options)
    elif means == "mouse":
        control.click()
    elif means == "touch":
        control.tap()
    else:
        control.focus()
        if options:
            key = "ArrowDown" if at < options - 1 else "ArrowUp"
        tab.keyboard.press(key)


def draw(tab, pad, means):
    """Draw a line, or a dot, in the middle of the drawing pad."""
    pad.scroll_into_view_if_needed()
    box = pad.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    if means == "keyboard":
        pad.focus()
        for key in ("ArrowLeft", "ArrowDown", " "):
            tab.keyboard.press(key)
    elif means == "mouse":
        tab.mouse.move(x, y)
        tab.mouse.down()
        tab.mouse.move(x + 30, y)
        tab.mouse.up()
    else:
        finger = tab.context.new_cdp_session(tab)
        for kind, points in (("Start", [x]), ("Move", [x + 30]), ("End", [])):
            finger.send(
                "Input.dispatchTouchEvent",
                {
                    "type": f"touch{kind}",
                    "touchPoints": [{"x": x, "y": y} for x in points],
                },
            )


@pytest.mark.slow(10)
@pytest.mark.parametrize("means", ["mouse", "touch", "keyboard"])
def test_each_control_answers(browser, html, means):
    with touched(browser, html) as tab:
        lab = tab.locator("#laboratory")

        def changes(what, *given):
            before = tab.evaluate(SEEN)
            what(tab, *given)
            tab.locator("#laboratory:not([aria-busy])").wait_for()
            changed = f"(before) => ({SEEN})() !== before"  # a click follows its tap
            tab.wait_for_function(changed, arg=before, timeout=5000)

        for name in ("Break", "Look", "Learn", "Run"):
            to = lab.get_by_role("tab", name=name)
            if means == "keyboard":
                to = lab.get_by_role("tab", selected=True)
            act(tab, to, means, "ArrowRight")
            panel = lab.get_by_role("tabpanel", name=name)
            names = "button, select, input:not([type=file]), [role=gridcell]"
            controls = panel.locator(names).element_handles()
            if means == "keyboard":
                for control in reversed(controls):
                    control.focus()
                    assert not control.evaluate(COVERED), control.inner_text()
            for control in controls:
                if (words := control.inner_text()) == "Own photo":
                    with tab.expect_file_chooser():
                        act(tab, control, means)
                    continue
                if words == "Mend all":
                    panel.get_by_label("no positions").check()
                changes(act, control, means)
        act(tab, lab.get_by_role("button", name="Black pen"), means)  # white again
        for group in ("Image", "Model"):
            radios = lab.get_by_role("radiogroup", name=group).get_by_role("radio")
            few = radios.element_handles()[:3]
            for i in (1, 2, 0):
                from_or_to = few[i - 1] if means == "keyboard" else few[i]
                if group == "Image" and i == 0 and means == "keyboard":
                    continue  # the third of many is not the last
                changes(act, from_or_to, means, "ArrowRight")
            radios.nth(5 if group == "Image" else 0).check()
            lab.get_by_role("tab", name="Run").focus()
            tab.keyboard.press("Tab")  # to the model, and from there to the image
            if group == "Image":
                tab.keyboard.press("Tab")
            assert radios.nth(5 if group == "Image" else 0).evaluate(
                "(each) => each === document.activeElement"
            )
        changes(draw, panel.locator("canvas").first, means)
        count, learn = tab.evaluate("tasks")
        assert count["counts"] and len(count["images"]) == TEST_IMAGES
        first = {"rate": 0.005, "warmup": 0.1, "schedule": "cosine", "passes": 6}
        first |= {"depth": 2, "heads": 4, "positions": True, "scaling": True}
        first |= {"teacher": False, "seed": 1}
        assert all(learn[name] != value for name, value in first.items())


def check_pair(table, query, key):
    """Compare a query and a key of layer 2, head 3, and their products with torch's."""
    model = load_model(DATA / "checkpoints" / "vit_fashion_mnist.safetensors")
    _, images = images_for("vit_fashion_mnist", 1)
    with torch.no_grad():
        tokens = model.embeddings(images)
        first, second = model.encoder.blocks[:2]
        qkv = second.attn.qkv(second.norm1(first(tokens)[0]))[0].view(-1, 3, 4, 16)
    q, k = qkv[query, 0, 2], qkv[key, 1, 2]
    texts = table.locator("[role=img]").evaluate_all("all => all.map(a => a.ariaLabel)")
    for text, numbers in zip(texts, (q, k, q * k), strict=True):
        found = [float(each.replace("−", "-")) for each in text.split(", ")]
        assert np.abs(np.array(found) - numbers.numpy()).max() < 0.007
    sums = re.findall(
        r"-?\d+\.\d+", table.locator("+ p").inner_text().replace("−", "-")
    )
    assert float(sums[0]) == pytest.approx((q @ k).item(), abs=0.007)
    assert float(sums[1]) == pytest.approx((q @ k).item() / 4, abs=0.007)


def test_a_run_that_is_stopped_at_once_shows_nothing_of_the_run_before(browser, html):
    news = """(step) => tasks.at(-1).tell({ step, steps: 10, seconds: 1, accuracy: 0.5,
      losses: [[step - 1, 2, 1], [step, 1, 1]], digits: [{ pixels: new Uint8Array(64),
      attention: new Float32Array(16).fill(1), said: 1, label: 1 }] })"""
    with touched(browser, html) as tab:
        tab.get_by_role("tab", name="Learn").click()
        panel = tab.get_by_role("tabpanel", name="Learn")
        panel.get_by_role("button", name="Learn").click()
        tab.wait_for_function("tasks.length")
        tab.evaluate(news, 5)
        tab.evaluate("tasks.at(-1).tell({ ended: true })")
        drawn = panel.locator("polyline").nth(1).get_attribute("points")
        panel.get_by_label("Schedule").select_option(index=2)
        tab.evaluate("""() => {
          const button = document.querySelector(".lab-go");
          button.click();
          button.click();
        }""")
        expect(panel.locator(".lab-answer")).to_have_text("Stopped.")
        tab.wait_for_timeout(100)
        assert tab.evaluate("tasks.length") == 1  # none was started
        lines = panel.locator("polyline").evaluate_all(
            "all => all.map((each) => each.getAttribute('points'))"
        )
        assert lines[0] == drawn and lines[1::2] == [""] * 3
        assert panel.locator("output").all_inner_texts() == ["–"] * 3
        assert panel.locator(".lab-digits li").count() == 0
        assert panel.get_by_text("Step 5").count() == 0
        gray = panel.get_by_text("In gray, the run before: schedule cosine.")
        assert gray.is_visible()


@pytest.mark.slow(20)
def test_a_reader_breaks_a_model_counts_and_lets_one_learn(browser, html):
    weight = sum(file.stat().st_size for file in (html / "_static/lab").iterdir())
    weight += (html / "book" / "laboratory.html").stat().st_size
    assert weight <= 1_200_000
    with opened(browser, html.as_uri(), "book/laboratory", width=390) as (tab, wrong):
        tab.set_default_timeout(20_000)
        lab = tab.locator("#laboratory")
        answer = lab.locator("[role=tabpanel]:visible .lab-answer")
        expect(answer).to_contain_text("Ankle boot, with 99 %. That is its label")
        lab.get_by_role("tab", name="Run").focus()
        tab.keyboard.press("ArrowRight")
        expect(answer).to_contain_text("Nothing is broken yet")
        heads = lab.locator(".lab-bars:visible thead th").all_inner_texts()
        assert heads == ["class", "probability", "logit before", "after"]
        logits = lab.locator(".lab-bars:visible td.lab-number")
        before = logits.all_inner_texts()
        positions = lab.get_by_label("no positions")
        positions.focus()
        tab.keyboard.press("Space")
        broken = logits.all_inner_texts()
        assert broken[::2] == before[::2] and broken[1::2] != before[1::2]
        lab.get_by_label("shuffle the patches").check()
        assert logits.all_inner_texts() == broken  # a bag of patches has no order
        lab.get_by_role("button", name="Count on 200 images").click()
        counted = lab.get_by_text("Right answers: whole 175 of 200 (88 %), broken")
        counted.wait_for()
        tab.evaluate("location.hash = 'what-is-the-scaling-worth'")
        expect(lab.get_by_label("no scaling by √d")).to_be_checked()
        expect(counted).to_have_count(0)  # it was another model's

        lab.get_by_role("tab", name="Look").click()
        assert lab.get_by_text("The model is broken").is_visible()
        lab.get_by_role("button", name="Mend it").click()
        assert lab.get_by_text("Choose a head, and you see the query").is_visible()
        layer, head = lab.locator(".lab-Look select").all()
        layer.select_option(label="2")
        head.select_option(label="3")
        lab.get_by_role("gridcell", name="row 3, column 3").click()
        assert lab.get_by_text("the patch in row 3, column 3 takes most").is_visible()
        lab.get_by_role("gridcell", name="row 2, column 3").hover()
        check_pair(lab.locator(".lab-pair"), query=11, key=7)
        lab.get_by_role("tab", name="Learn").click()
        lab.get_by_label("Passes").select_option("3")
        lab.get_by_label("Blocks").select_option("1")
        browser.start_tracing(page=tab, categories=["toplevel"])
        lab.get_by_role("button", name="Learn", exact=True).click()
        expect(answer).to_contain_text("It has learned", timeout=120_000)
        frames = main_thread(json.loads(browser.stop_tracing()))
        assert len(frames) > 100 and max(frames) < 50
        share = int(answer.inner_text().split(": ")[1].split()[0])
        assert share >= 60
        for link in lab.locator("a").evaluate_all("all => all.map(a => a.href)"):
            file, anchor = link.removeprefix("file://").split("#")
            assert f'id="{anchor}"' in Path(file).read_text(encoding="utf-8"), link
        assert wrong == []

        if AXE.is_file():  # it fetches style sheets, which a folder refuses
            tab.add_script_tag(path=AXE)
        for name in ("Break", "Look", "Learn"):
            lab.get_by_role("tab", name=name).click()
            if name == "Break":  # the wider tables are the DeiT's
                lab.get_by_role("radio", name="DeiT for clothes").click()
                lab.locator("[aria-busy]").wait_for(state="detached")
            assert faults(tab, FITS | LEGIBLE) == {}
            if AXE.is_file():
                assert tab.evaluate(BARRIERS, None) == [], name


# What a reader finds whom a chapter sends to a question of the page.
SENT = {
    "01_scaled_dot_product_attention": ("Break", "no scaling by √d"),
    "02_multi_head_attention": ("Look", "Layer 1, head 1: the class token takes most"),
    "04_block": ("Break", "no residual"),
    "06_embeddings": ("Break", "no positions"),
    "07_vision_transformer": ("Break", "broken, Trouser (100 %)."),
    "08_training": ("Learn", "broken"),
    "16_testing_maps": ("Break", "broken, Ankle boot (94 %)."),
    "10_distillation_token": ("Run", "Dress, with 52 %. That is its label, too."),
}


def test_a_chapters_link_opens_what_it_speaks_of(browser, html):
    with touched(browser, html) as tab:
        for chapter, (name, found) in SENT.items():
            text = (html / "notebooks" / f"{chapter}.html").read_text("utf-8")
            hashes = re.findall(r'href="../book/laboratory.html(#[\w-]+)"', text)
            assert len(hashes) == 1, chapter
            tab.evaluate("(hash) => { location.hash = hash; }", hashes[0])
            panel = tab.get_by_role("tabpanel", name=name)
            if found.startswith("no "):
                expect(panel.get_by_label(found)).to_be_checked()
            elif name == "Learn":
                chosen = panel.get_by_label("Schedule").locator("option:checked")
                expect(chosen).to_have_text(found)
            else:
                expect(panel.locator(".lab-answer")).to_contain_text(found)
        tab.get_by_role("tab", name="Run").click()
        panel = tab.get_by_role("tabpanel", name="Run")
        panel.get_by_role("button", name="Blank").click()
        tab.evaluate("location.hash = 'one-head-without-the-scaling'")
        panel = tab.get_by_role("tabpanel", name="Learn")
        chosen = panel.locator(".lab-settings option:checked").all_inner_texts()
        assert chosen[5] == "1" and chosen[7] == "none"
        tab.evaluate("location.hash = 'what-is-the-scaling-worth'")
        answer = tab.get_by_role("tabpanel", name="Break").locator(".lab-answer")
        expect(answer).to_contain_text("Ankle boot (99 %); broken")  # none was drawn
        expect(answer).to_contain_text("Its logit went from 9.1")
        assert tab.get_by_label("no scaling by √d (here √16)").is_checked()
        tab.evaluate("(hash) => { location.hash = hash; }", hashes[0])
        tab.reload()  # as from another page
        panel = tab.get_by_role("tabpanel", name="Run")
        expect(panel.locator(".lab-answer")).to_contain_text("Dress, with 52 %")
        assert tab.locator("#laboratory").evaluate(
            "(each) => Math.abs(each.getBoundingClientRect().top) < 100"
        )


def test_without_javascript_and_on_paper_stands_a_picture(browser, html):
    address = f"{html.as_uri()}/book/laboratory.html"
    context = browser.new_context(java_script_enabled=False)
    picture = ".lab-still img"
    tab = context.new_page()
    tab.goto(address)
    shown = tab.locator(picture)
    assert shown.bounding_box()["width"] > 400
    assert tab.get_by_text("in a browser with JavaScript").is_visible()
    context.close()
    with touched(browser, html) as tab:
        assert not tab.locator(picture).is_visible()
        tab.emulate_media(media="print")
        assert tab.locator(picture).is_visible()
        assert not tab.locator("#laboratory").is_visible()


# ---- in a notebook ----


def own(cls=VisionTransformer, channels=1, classes=10, seed=0, **sizes):
    """Return (a new model whose logits are large, images, the names of its classes)."""
    torch.manual_seed(seed)
    sizes = TINY | {"in_channels": channels, "num_classes": classes} | sizes
    model = cls(**sizes).eval()
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    side = model.config["image_size"]
    images = torch.randint(256, (12, channels, side, side), dtype=torch.uint8)
    return model, images, [f"class {i}" for i in range(classes)]


def logits_of(model, images, mean, std):
    mean, std = (torch.tensor(each).view(-1, 1, 1) for each in (mean, std))
    with torch.no_grad():
        return model((images / 255 - mean) / std)


@pytest.mark.parametrize(
    ("cls", "sizes"),
    [
        (VisionTransformer, {"channels": 3, "classes": 12, "patch_size": 4}),
        (DistilledVisionTransformer, {"num_heads": 2, "depth": 3, "classes": 3}),
    ],
)
def test_a_notebooks_laboratory_has_the_models_logits(cls, sizes):
    model, images, classes = own(cls, **sizes)
    mean, std = (0.5,) * images.shape[1], (0.25,) * images.shape[1]
    made = laboratory(model, images, classes=classes, mean=mean, std=std)
    found = run_js(
        """globalThis.document = { documentElement: { dataset: { theme: "light" } } };
        run("notebook.js");
        lab.own({}, given);
        const model = await lab.model("model"), { bytes } = await lab.load("images");
        const length = bytes.length / 12;
        return [...Array(12).keys()].map((i) => math.forward(model, lab.normalize(
          bytes.subarray(i * length, (i + 1) * length), model)).answer);""",
        **json.loads(re.search(r"\}\)\((\{.*\})\);\n</script>", made.html)[1]),
    )
    expected = logits_of(model, images, mean, std)
    assert expected.abs().max() > 3
    assert (torch.tensor(found) - expected).abs().max() < 1e-3


def test_equal_models_make_equal_bytes_and_others_do_not():
    model, images, classes = own()
    made = laboratory(model, images, classes=classes)
    assert str(made) == "Laboratory: 2 blocks, 18,218 parameters, 12 images"
    assert made._repr_mimebundle_()["text/html"] == made.html
    assert laboratory(model.half(), images, classes=classes).html != made.html
    again, images, classes = own()
    floats = images / 255 * 2 - 1
    norm = {"mean": (0.5,), "std": (0.5,)}
    one, other = (
        laboratory(again, x, classes=classes, **norm) for x in (images, floats)
    )
    assert one.html == other.html
    assert laboratory(again.train(), images, classes=classes).html == made.html
    assert again.training  # it is left as it was


@pytest.mark.parametrize(
    ("sizes", "changes", "message"),
    [
        ({"num_registers": 2}, {}, "no model with registers"),
        ({"norm_eps": 1e-5}, {}, "no model with norm_eps 1e-05"),
        ({"patch_size": (2, 4)}, {}, "no model with images or patches that are no squ"),
        (
            {"embed_dim": 512, "mlp_dim": 2048},
            {},
            r"with 6,\d+,\d+ parameters \(at most",
        ),
        ({}, {"images": torch.zeros(2, 3, 8, 8)}, r"\(2, 3, 8, 8\), the model expects"),
        ({}, {"images": torch.full((2, 1, 8, 8), 3.0)}, "give the mean and std"),
        ({}, {"labels": [1, 2]}, "2 labels given for 12"),
        ({}, {"labels": 6 * [0, 10]}, "from 0 to 10, there are 10 classes"),
        ({}, {"classes": ["boot"]}, "1 classes given for 10"),
        ({}, {"model": torch.nn.Linear(2, 2)}, "a Linear is no VisionTransformer"),
    ],
)
def test_what_no_laboratory_can_show_is_named(sizes, changes, message):
    model, images, classes = own(**sizes)
    given = {"model": model, "images": images, "classes": classes} | changes
    with pytest.raises(ValueError, match=message):
        laboratory(**given)


def test_notebooks_run_break_and_look_at_models_of_their_own(browser, tmp_path):
    two = [
        (own(channels=3, classes=12), {}),
        (own(DistilledVisionTransformer), {"labels": [i % 10 for i in range(12)]}),
    ]
    pages = [
        laboratory(model, images, classes=classes, **labels).html
        for (model, images, classes), labels in two
    ]
    hosts = '<div class="host"></div>' * 3
    with opened_file(browser, tmp_path, hosts, theme="dark") as tab:
        for host, page in enumerate([*pages, pages[0]]):  # as JupyterLab does
            tab.evaluate(INSERT, [host, page])
        labs = tab.locator(".laboratory")
        for lab, ((model, images, classes), _) in zip(labs.all(), two, strict=False):
            lab.locator(".lab-bars").first.wait_for()
            expect(lab.get_by_role("tab")).to_have_text(["Run", "Break", "Look"])
            lab.get_by_role("radio", name="image 2", exact=False).first.check()
            lab.get_by_role("tab", name="Break").click()
            rows = lab.locator(".lab-bars:visible tbody tr")
            assert rows.count() == 10
            chosen = lab.get_by_role("radio", checked=True).first
            number = int(
                re.search(r"image (\d+)", chosen.get_attribute("aria-label"))[1]
            )
            zero = (0.0,) * images.shape[1], (1.0,) * images.shape[1]
            expected = logits_of(model, images, *zero)[number - 1]
            for row in rows.all():
                name, before = row.locator("th, .lab-number").all_inner_texts()[:2]
                logit = expected[classes.index(name)].item()
                assert float(before.replace("−", "-")) == pytest.approx(
                    logit, abs=0.006
                )
            lab.get_by_label("no positions").check()
            expect(lab.locator(".lab-Break .lab-answer")).to_contain_text("broken,")
            lab.get_by_role("tab", name="Look").click()
            lab.locator(".lab-Look select").nth(1).select_option(label="2")
            tab.evaluate(HEAR)
            lab.locator(".lab-Look [role=gridcell]").first.focus()
            for key in ("Enter", "ArrowDown", " ", "d"):
                tab.keyboard.press(key)
            said = lab.locator(".lab-Look .lab-answer").inner_text()
            assert "patch in row 2, column 1 takes most" in said
            assert tab.evaluate("heard") == []
            assert lab.locator(".lab-vector:visible").count() == 3
            link = lab.locator(".lab-Look a").first.get_attribute("href")
            assert link.startswith("https://") and "/book/glossary.html#" in link
        assert labs.nth(2).locator(".lab-Run .lab-answer").is_visible()  # an equal one
        labs.nth(1).get_by_role("tab", name="Break").click()
        labs.nth(1).get_by_role("button", name="Count on 12 images").click()
        labs.nth(1).get_by_text("Right answers: whole").wait_for()
        assert labs.first.evaluate("(each) => each.style.colorScheme") == "dark"
        if AXE.is_file():
            tab.add_script_tag(path=AXE)
            assert tab.evaluate(BARRIERS, ["wcag2a", "wcag2aa", "wcag21aa"]) == []
    with opened_file(browser, tmp_path, pages[0], java_script_enabled=False) as tab:
        assert tab.locator("img").bounding_box()["width"] > 400
        assert tab.get_by_text("The laboratory computes where scripts run").is_visible()
        assert tab.locator("button, select, [role], [tabindex]").count() == 0


def test_a_frame_of_no_origin_holds_a_laboratory_as_in_colab(browser, tmp_path):
    model, images, classes = own()
    labels = [i % 10 for i in range(12)]
    made = laboratory(model, images, classes=classes, labels=labels).html
    ground = "<style>body { background: #383838; color: #d5d5d5 }</style>"
    frame = f"""<iframe sandbox="allow-scripts" width="700" height="600"
      srcdoc="{escape(ground + made)}"></iframe>"""
    with opened_file(browser, tmp_path, frame) as tab:
        lab = tab.frame_locator("iframe").locator(".laboratory")
        lab.get_by_role("tab", name="Break").click()
        lab.get_by_label("no positions").check()
        lab.get_by_role("button", name="Count on 12 images").click()
        lab.get_by_text("Right answers: whole").wait_for()
        bar = lab.locator(".lab-sticky")  # it would be a black one, by `Canvas`
        assert bar.evaluate("(each) => getComputedStyle(each).backgroundColor") == (
            "rgb(56, 56, 56)"
        )


@pytest.fixture
def firefox(tmp_path):
    """Return what evaluates JavaScript and presses keys in a headless Firefox."""
    websocket = pytest.importorskip("websocket")
    found = shutil.which("firefox") or shutil.which("firefox-esr")
    if found is None:
        pytest.skip("no Firefox: apt-get install firefox-esr")
    command = [found, "--headless", "--no-remote", "--profile", tmp_path]
    with subprocess.Popen(
        [*command, "--remote-debugging-port", "0"], stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            heard = next(line for line in process.stderr if "BiDi listening" in line)
            address = f"{heard.split()[-1]}/session"
            line = websocket.create_connection(
                address, timeout=120, suppress_origin=True
            )
            yield Firefox(line)
        finally:
            process.terminate()


class Firefox:
    """A tab of a Firefox that is spoken to by WebDriver BiDi."""

    def __init__(self, line):
        self.line, self.sent, self.wrong = line, 0, []
        self.call("session.new", capabilities={})
        self.call("session.subscribe", events=["log.entryAdded"])
        (tree,) = self.call("browsingContext.getTree")["contexts"]
        self.tab = tree["context"]

    def call(self, method, **given):
        self.sent += 1
        words = {"id": self.sent, "method": method, "params": given}
        self.line.send(json.dumps(words))
        while (found := json.loads(self.line.recv())).get("id") != self.sent:
            entry = found.get("params", {})
            if entry.get("level") in ("error", "warn"):
                self.wrong.append(entry["text"])
        assert found["type"] == "success", found
        return found["result"]

    def open(self, address):
        where = {"context": self.tab, "url": address}
        self.call("browsingContext.navigate", **where, wait="complete")

    def wait(self, condition):
        """Wait until an expression is true; return it."""
        source = f"""new Promise((done) => (function look() {{
          const found = {condition};
          found ? done(found) : setTimeout(look, 50);
        }})())"""
        found = self.call(
            "script.evaluate",
            expression=source,
            target={"context": self.tab},
            awaitPromise=True,
        )
        assert found["type"] == "success", found
        return found["result"].get("value")

    def click(self, selector):
        self.wait(f"document.querySelector('{selector}').click() ?? true")

    def press(self, key):
        actions = [{"type": kind, "value": key} for kind in ("keyDown", "keyUp")]
        source = {"type": "key", "id": "keyboard", "actions": actions}
        self.call("input.performActions", context=self.tab, actions=[source])


@pytest.mark.slow(10)
def test_firefox_runs_breaks_and_learns(firefox, html):
    right = "\ue014"  # an arrow key, as WebDriver names it
    answer = "document.querySelector('.lab-panel:not([hidden]) .lab-answer')"
    firefox.open(f"{html.as_uri()}/book/laboratory.html")
    firefox.wait(f"{answer}?.textContent.startsWith('Ankle boot, with 99 %')")
    firefox.wait("document.querySelector('#laboratory-Run-tab').focus() ?? true")
    firefox.press(right)
    firefox.wait(f"{answer}.textContent.startsWith('Nothing is broken yet')")
    firefox.click(".lab-Break input")
    firefox.wait(f"{answer}.textContent.startsWith('Whole, it says Ankle boot (99 %)')")
    firefox.wait("document.querySelector('[name=laboratory-Model]').focus() ?? true")
    firefox.press(right)  # to the DeiT, which is whole
    firefox.wait(f"{answer}.textContent.startsWith('Nothing is broken yet')")
    firefox.click("#laboratory-Learn-tab")
    firefox.click(".lab-go")
    firefox.wait("/Step [1-9]/.test(document.querySelector('.lab-Learn').innerText)")
    assert firefox.wrong == []
