// The view of learning: a small Vision Transformer learns handwritten digits in a worker,
// and tells how it fares. What it does there is `learn` in state.js.
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
  const accuracy = chart("Right on 297 held-out digits", "var(--lab-ok)", 0, 1, percent, 0.9);
  const rate = chart(
    "Learning rate",
    "var(--lab-second)",
    0,
    1,
    (y) => `${(100 * y).toFixed(0)} % of the peak`,
  );
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
          { kind: "learn", digits: bytes, count: header.count, ...mine.settings },
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
      " of 2\u00a0×\u00a02, 17 tokens of 32 numbers. Change one thing and let it learn " +
        "again: the same random start has the same first weights and the same batches.",
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
      " are in the glossary; scaling is of chapter ",
      chapter(1, "01_scaled_dot_product_attention.html#what-the-square-root-changes"),
      ", the schedule of ",
      chapter(8, "08_training.html#pitfall-the-schedule-that-climbs-twice"),
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
