// Learning: a small Vision Transformer learns handwritten digits in a worker, and tells how
// it fares, which the view shows.

/* Let a new model learn digits; tell the loss of each step, and how it fares. */
lab.learn =
  (math) =>
  ({
    data: {
      digits,
      count: n,
      rate,
      warmup,
      passes,
      schedule,
      positions,
      scaling,
      teacher,
      ...sizes
    },
  }) => {
    const batch = 32,
      held = 297,
      side = 8,
      patches = 16,
      broken = { noPositions: !positions, noScaling: !scaling };
    const model = math.newModel(
      {
        image_size: side,
        patch_size: 2,
        in_channels: 1,
        num_classes: 10,
        embed_dim: 32,
        mlp_dim: 64,
        distilled: teacher,
        depth: sizes.depth,
        num_heads: sizes.heads,
      },
      sizes.seed,
    );
    const order = math.shuffled(n, math.random(7)); // the same digits are always held out
    const [test, train] = [order.slice(0, held), order.slice(held)];
    const pixels = side * side,
      labels = digits.subarray(n * pixels);
    const read = (ids) => {
      const images = new Float32Array(ids.length * pixels);
      ids.forEach((id, i) => {
        for (let p = 0; p < pixels; p++) images[i * pixels + p] = digits[id * pixels + p] / 8 - 1;
      });
      return images;
    };
    const step = math.adamW(model.parameters),
      draw = math.random(sizes.seed + 1);
    const steps = passes * Math.ceil(train.length / batch),
      climb = Math.round(warmup * steps);
    const factor = (i) => {
      if (schedule === "constant") return i < climb ? (i + 1) / (climb + 1) : 1;
      return math.warmupCosine(i, steps, climb, schedule === "broken" ? 1.6 : 1);
    };
    const shown = [...Array(10).keys()].map((k) => test.find((id) => labels[id] === k));
    const start = performance.now(),
      seconds = () => (performance.now() - start) / 1000;
    let done = 0,
      told = 0,
      losses = [];
    const answers = teacher ? taught() : null; // of the teacher, to every digit

    /* Let a teacher learn the labels first; return its answers. */
    function taught() {
      const linear = math.newTeacher(pixels, 10),
        step = math.adamW(linear);
      const draw = math.random(sizes.seed);
      for (let pass = 0; pass < 10; pass++) {
        const places = math.shuffled(train.length, draw);
        for (let first = 0; first < train.length; first += batch) {
          const ids = places.slice(first, first + batch).map((place) => train[place]);
          step(
            math.teacherGradients(
              linear,
              read(ids),
              ids.map((id) => labels[id]),
            ).gradients,
            0.01,
          );
        }
      }
      const logits = math.teach(linear, read([...Array(n).keys()]));
      const answers = [...Array(n).keys()].map((id) => math.best(logits, id * 10, 10));
      postMessage({ teacher: test.filter((id) => answers[id] === labels[id]).length / held });
      return answers;
    }

    function validate() {
      const { answer } = math.forward(model, read(test), broken);
      const right = test.filter((id, i) => math.best(answer, i * 10, 10) === labels[id]).length;
      const few = math.forward(model, read(shown), broken),
        N = few.N;
      const weights = few.blocks.at(-1).attention.weights;
      const digitsNow = shown.map((id, i) => {
        const attention = new Float32Array(patches); // of the class token, mean of heads
        for (let h = 0; h < sizes.heads; h++)
          for (let j = N - patches; j < N; j++)
            attention[j - N + patches] += weights[(i * sizes.heads + h) * N * N + j] / sizes.heads;
        const said = math.best(few.answer, i * 10, 10);
        return {
          pixels: digits.slice(id * pixels, (id + 1) * pixels),
          said,
          attention,
          label: labels[id],
        };
      });
      postMessage({
        step: done,
        steps,
        seconds: seconds(),
        accuracy: right / held,
        digits: digitsNow,
      });
    }

    validate();
    for (let pass = 0; pass < passes; pass++) {
      const places = math.shuffled(train.length, draw);
      for (let first = 0; first < train.length; first += batch) {
        const ids = places.slice(first, first + batch).map((place) => train[place]);
        const trace = math.forward(model, read(ids), broken);
        const right = ids.map((id) => labels[id]);
        const { loss, slopes } = teacher
          ? math.hardDistillation(
              trace.logits,
              right,
              ids.map((id) => answers[id]),
            )
          : math.crossEntropy(trace.answer, right);
        const gradients = math.backward(model, trace, teacher ? slopes : [slopes]);
        math.clip(gradients);
        step(gradients, rate * factor(done));
        losses.push([done, loss, rate * factor(done)]);
        done += 1;
        if (performance.now() - told > 150 || done === steps) {
          postMessage({ step: done, steps, seconds: seconds(), losses });
          [told, losses] = [performance.now(), []];
        }
        if (done % 16 === 0 || done === steps) validate();
      }
    }
    postMessage({ ended: true });
  };

/* Return the view, in which a reader chooses settings and watches. */
lab.learnView = ({ make, button, select, paint, percent, word, CHAPTERS }) => {
  const CHOICES = {
    rate: ["Learning rate", [0.0005, 0.002, 0.005, 0.02, 0.1], 2],
    warmup: [
      "Warm-up",
      [0, 0.1, 0.5],
      1,
      (share) => (share ? `${100 * share} % of the steps` : "none"),
    ],
    schedule: ["Schedule", ["cosine", "constant", "broken"], 0],
    passes: ["Passes", [3, 6, 12], 1],
    depth: ["Blocks", [1, 2, 3], 1],
    heads: ["Heads", [1, 2, 4], 2],
    positions: ["Positions", [true, false], 0, (on) => (on ? "learned" : "none")],
    scaling: ["Scaling", [true, false], 0, (on) => (on ? "by √d" : "none")],
    teacher: ["Teacher", [false, true], 0, (on) => (on ? "linear model" : "none")],
    seed: ["Random start", [1, 2, 3, 4, 5], 0],
  };
  const settings = {};
  const controls = Object.entries(CHOICES).map(
    ([name, [label, values, chosen, words = String]]) => {
      settings[name] = values[chosen];
      return select(
        label,
        values.map(words),
        (i) => {
          settings[name] = values[i];
        },
        chosen,
      );
    },
  );
  /* Choose some values, and all others as they were at first. */
  lab.chooseLearning = (wanted) => {
    Object.entries(CHOICES).forEach(([name, [, values, first]], i) => {
      const chosen = name in wanted ? values.indexOf(wanted[name]) : first;
      settings[name] = values[chosen];
      controls[i].lastChild.value = chosen;
    });
  };
  let run = null,
    before = null; // the run that goes on, what the one before was set to
  /* A chart of one line that grows: x is the share of all steps. */
  function chart(title, color, least, most, format, goal = null) {
    const ns = "http://www.w3.org/2000/svg",
      svg = document.createElementNS(ns, "svg");
    svg.setAttribute("viewBox", "0 0 100 100");
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("aria-hidden", "true"); // its last value is said beside it
    const part = (tag, attributes) => {
      const element = document.createElementNS(ns, tag);
      for (const name in attributes) element.setAttribute(name, attributes[name]);
      return svg.appendChild(element);
    };
    const height = (y) =>
      100 - (100 * (Math.min(most, Math.max(least, y)) - least)) / (most - least);
    if (goal !== null) part("line", { x1: 0, x2: 100, y1: height(goal), y2: height(goal) });
    const old = part("polyline", { stroke: "var(--lab-before)", points: "" });
    const line = part("polyline", { stroke: color, points: "" });
    const value = make("output", {}, "–");
    let points = [];
    return {
      element: make(
        "figure",
        { class: "lab-chart" },
        make("figcaption", {}, title, value),
        svg,
        make(
          "p",
          {},
          make("span", {}, format(least)),
          make("span", {}, `at the top: ${format(most)}`),
        ),
      ),
      add(x, y) {
        points.push(`${(100 * x).toFixed(2)},${height(Number.isFinite(y) ? y : most).toFixed(2)}`);
        value.textContent = format(y);
      },
      draw() {
        line.setAttribute("points", points.join(" "));
      },
      clear(keep) {
        // the run before, in gray
        if (keep) old.setAttribute("points", points.join(" "));
        points = [];
        line.setAttribute("points", "");
        value.textContent = "–";
      },
    };
  }
  const loss = chart("Loss of a batch", "var(--lab-after)", 0, 2.5, (y) => y.toFixed(2));
  const accuracy = chart("Held-out digits right", "var(--lab-ok)", 0, 1, percent, 0.9);
  const rate = chart("Rate, of its peak", "var(--lab-second)", 0, 1, percent);
  const charts = [loss, accuracy, rate];
  const said = make("p", { "aria-live": "polite", class: "lab-answer" });
  const gray = make("p", { class: "lab-small" });
  const clock = make("p", { class: "lab-small" }),
    digits = make("ol", { class: "lab-digits" });

  /* Say what is gray: the run before, and how it was set otherwise. */
  function tellBefore() {
    const others = Object.entries(CHOICES)
      .filter(([name]) => before[name] !== settings[name])
      .map(
        ([name, [label, , , words = String]]) => `${label.toLowerCase()} ${words(before[name])}`,
      );
    gray.textContent = `In gray, the run before: ${others.join(", ") || "set like this one"}.`;
  }

  async function start() {
    const mine = { settings: { ...settings }, losses: 0 };
    if (run?.losses > 1) before = run.settings;
    for (const each of charts) each.clear(run?.losses > 1);
    if (before) tellBefore();
    run = mine;
    digits.style.minHeight = `${digits.offsetHeight}px`; // what is below stays where it is
    digits.replaceChildren();
    clock.textContent = "";
    said.textContent = "It begins to learn.";
    go.textContent = "Stop";
    try {
      const { header, bytes } = await lab.load("digits");
      if (run === mine && !mine.ended)
        mine.stop = lab.start(
          lab.learn,
          { digits: bytes, count: header.count, ...mine.settings },
          (news) => hear(mine, news),
        );
    } catch (error) {
      halt(`${error.message} Try again.`);
    }
  }

  function hear(mine, news) {
    if (news.error) return halt(`The worker failed: ${news.error}`);
    const share = news.step / news.steps;
    if (news.step !== undefined)
      clock.textContent = `Step ${news.step} of ${news.steps}, ${news.seconds.toFixed(0)} s.`;
    for (const [step, value, now] of news.losses ?? []) {
      loss.add(step / news.steps, value);
      rate.add(step / news.steps, now / mine.settings.rate);
      mine.losses += 1;
    }
    if (news.losses) for (const each of [loss, rate]) each.draw();
    if (news.teacher) mine.teacher = ` The teacher: ${percent(news.teacher)}.`;
    if (news.accuracy !== undefined) {
      mine.last = news.accuracy;
      accuracy.add(share, mine.last);
      accuracy.draw();
      if (!digits.children.length) digits.append(...ten.map(({ element }) => element));
      news.digits.forEach((digit, i) => ten[i].show(digit));
      if (!mine.at90 && mine.last >= 0.9) {
        mine.at90 = `${news.seconds.toFixed(0)} s`;
        said.textContent = `90 % of the held-out digits are right after ${mine.at90} and ${news.step} steps.`;
      }
    }
    if (news.ended)
      halt(
        `It has learned: ${percent(mine.last)} of the held-out digits are right` +
          `${mine.at90 ? `; 90 % were right after ${mine.at90}` : ""}.${mine.teacher ?? ""}`,
      );
  }

  function halt(words) {
    run.stop?.();
    run.ended = true;
    go.textContent = "Learn";
    said.textContent = words;
  }
  const go = button("Learn", () => (!run || run.ended ? start() : halt("Stopped.")), {
    class: "lab-go",
  });

  /* A held-out digit, what the model says, and what its class token looks at. */
  function digitView() {
    const canvas = make("canvas"),
      words = make("span");
    const dots = Array.from({ length: 16 }, () => make("i", { class: "lab-dot" }));
    return {
      element: make(
        "li",
        {},
        make("div", { class: "lab-picture" }, canvas, make("div", { class: "lab-grid" }, ...dots)),
        words,
      ),
      show({ pixels, said: answer, attention, label }) {
        paint(
          canvas,
          pixels.map((value) => Math.min(255, value * 16)),
          8,
        );
        const most = Math.max(...attention),
          right = answer === label;
        dots.forEach((dot, i) => {
          dot.style.setProperty("--share", Math.sqrt(attention[i] / most).toFixed(3));
        });
        words.className = right ? "lab-right-answer" : "lab-wrong-answer";
        words.textContent = right ? `✓ ${answer}` : `✗ ${answer}, not ${label}`;
      },
    };
  }
  const ten = Array.from({ length: 10 }, digitView);

  const chapter = (number, page) => make("a", { href: `${CHAPTERS}${page}` }, `${number}`);
  return make(
    "div",
    { class: "lab-learn" },
    make(
      "p",
      {},
      "A new model of random weights learns 1,500 handwritten digits of 8\u00a0×\u00a08 pixels: ",
      word("patches", "tokens-and-positions"),
      " of 2\u00a0×\u00a02, 17 tokens of 32 numbers; 297 others are held out. " +
        "Change one thing and let it learn again: the same random start has the same first " +
        "weights and the same batches.",
    ),
    make("div", { class: "lab-settings" }, ...controls),
    make(
      "p",
      { class: "lab-small" },
      word("Rate, warm-up, teacher", "learning"),
      ", ",
      word("blocks", "the-model"),
      " and ",
      word("heads", "attention"),
      " are in the glossary; scaling, by the root of a head’s width d = 32 / heads, is of chapter ",
      chapter(1, "01_scaled_dot_product_attention.html#what-the-square-root-changes"),
      ", the schedule of ",
      chapter(8, "08_training.html#pitfall-a-schedule-counted-in-epochs"),
      ", the teacher of ",
      chapter(10, "10_distillation_token.html#the-idea"),
      ".",
    ),
    make("div", { class: "lab-tools" }, go, clock),
    said,
    gray,
    make("div", { class: "lab-charts" }, ...charts.map(({ element }) => element)),
    make(
      "p",
      { class: "lab-small" },
      "Ten of the held-out digits, the answers, and what the class token attends to in the last block:",
    ),
    digits,
  );
};
