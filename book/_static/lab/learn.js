// The view of learning: a small Vision Transformer learns handwritten digits in a worker,
// and tells how it fares. What it does there is `learn` in state.js.
lab.learnView = ({ make, button, select, paint, percent }) => {
  const CHOICES = {
    rate: ["Learning rate", [0.0005, 0.002, 0.005, 0.02, 0.1], 2],
    warmup: ["Warm-up", [0, 0.1, 0.5], 1, (share) => (share ? `${100 * share} % of the steps` : "none")],
    schedule: ["Schedule", ["cosine", "constant", "broken"], 0,
      (name) => ({ cosine: "cosine to 0", constant: "constant", broken: "broken: climbs twice" })[name]],
    passes: ["Passes", [3, 6, 12], 1],
    depth: ["Blocks", [1, 2, 3], 1],
    heads: ["Heads", [1, 2, 4], 2],
    positions: ["Positions", [true, false], 0, (on) => (on ? "learned" : "none")],
  };
  const settings = {};
  const controls = Object.entries(CHOICES).map(([name, [label, values, chosen, words = String]]) => {
    settings[name] = values[chosen];
    return select(label, values.map(words), (i) => { settings[name] = values[i]; }, chosen);
  });
  let stop = null, seed = 0;

  /* A chart of one line that grows: x is the share of all steps. */
  function chart(title, color, least, most, format, goal = null) {
    const ns = "http://www.w3.org/2000/svg", svg = document.createElementNS(ns, "svg");
    svg.setAttribute("viewBox", "0 0 100 100");
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("aria-hidden", "true"); // its last value is said beside it
    const part = (tag, attributes) => {
      const element = document.createElementNS(ns, tag);
      for (const name in attributes) element.setAttribute(name, attributes[name]);
      return svg.appendChild(element);
    };
    const height = (y) => 100 - (100 * (Math.min(most, Math.max(least, y)) - least)) / (most - least);
    if (goal !== null) part("line", { x1: 0, x2: 100, y1: height(goal), y2: height(goal) });
    const before = part("polyline", { stroke: "var(--lab-before)", points: "" });
    const line = part("polyline", { stroke: color, points: "" });
    const value = make("output", {}, "–");
    let points = [];
    return {
      element: make("figure", { class: "lab-chart" }, make("figcaption", {}, title, value), svg,
        make("p", {}, make("span", {}, format(least)), make("span", {}, `at the top: ${format(most)}`))),
      add(x, y) {
        points.push(`${(100 * x).toFixed(2)},${height(Number.isFinite(y) ? y : most).toFixed(2)}`);
        value.textContent = format(y);
      },
      draw() { line.setAttribute("points", points.join(" ")); },
      clear() { // the run before stays, in gray
        if (points.length) before.setAttribute("points", points.join(" "));
        points = [];
        line.setAttribute("points", "");
      },
    };
  }
  const loss = chart("Loss of a batch", "var(--lab-after)", 0, 2.5, (y) => y.toFixed(2));
  const accuracy = chart("Right on 297 held-out digits", "var(--lab-ok)", 0, 1, percent, 0.9);
  const rate = chart("Learning rate", "var(--lab-second)", 0, 1, (y) => `${(100 * y).toFixed(0)} % of the peak`);
  const charts = [loss, accuracy, rate];
  const said = make("p", { "aria-live": "polite", class: "lab-answer" });
  const clock = make("p", { class: "lab-small" }), digits = make("ol", { class: "lab-digits" });

  async function start() {
    halt();
    charts.forEach((each) => each.clear());
    said.textContent = "It begins to learn.";
    go.textContent = "Stop";
    let last = 0, at90 = null, step90 = 0;
    const { header, bytes } = await lab.load("digits");
    const peak = settings.rate;
    stop = lab.start({ kind: "learn", digits: bytes, count: header.count, seed: seed++, ...settings }, (news) => {
      if (news.error) {
        said.textContent = `The worker failed: ${news.error}`;
        halt();
      }
      for (const [step, value, now] of news.losses ?? []) {
        loss.add(step / news.steps, value);
        rate.add(step / news.steps, now / peak);
      }
      if (news.losses) [loss, rate].forEach((each) => each.draw());
      if (news.step !== undefined) clock.textContent = `Step ${news.step} of ${news.steps}, ${news.seconds.toFixed(0)} s.`;
      if (news.accuracy !== undefined) {
        last = news.accuracy;
        accuracy.add(news.step / news.steps, last);
        accuracy.draw();
        showDigits(news.digits);
        if (at90 === null && last >= 0.9) {
          [at90, step90] = [news.seconds, news.step];
          said.textContent = `90 % of the held-out digits are right after ${at90.toFixed(0)} s and ${step90} steps.`;
        }
      }
      if (news.ended) {
        said.textContent = `It has learned: ${percent(last)} of the held-out digits are right` +
          (at90 === null ? "." : `; 90 % were right after ${at90.toFixed(0)} s.`);
        halt();
      }
    });
  }
  function halt() {
    stop?.();
    stop = null;
    go.textContent = "Learn";
  }
  const go = button("Learn", () => {
    if (!stop) return start();
    said.textContent = "Stopped.";
    halt();
  }, { class: "lab-go" });

  /* Ten held-out digits, what the model says, and what its class token looks at. */
  function showDigits(all) {
    digits.replaceChildren(...all.map(({ pixels, said: answer, attention, label }) => {
      const most = Math.max(...attention), right = answer === label;
      const dots = [...attention].map((weight) => make("i", {
        class: "lab-dot", style: `--share: ${Math.sqrt(weight / most).toFixed(3)}`,
      }));
      return make("li", {},
        make("div", { class: "lab-picture" }, paint(make("canvas"), pixels.map((value) => Math.min(255, value * 16)), 8),
          make("div", { class: "lab-grid" }, ...dots)),
        make("span", { class: right ? "lab-right-answer" : "lab-wrong-answer" },
          right ? `✓ ${answer}` : `✗ ${answer}, not ${label}`));
    }));
  }

  return make("div", { class: "lab-learn" },
    make("p", {}, "A new model of random weights learns 1,500 handwritten digits of 8\u00a0×\u00a08 pixels: patches of 2\u00a0×\u00a02, " +
      "17 tokens of 32 numbers. Change one thing, let it learn again, and compare with the run before, in gray."),
    make("div", { class: "lab-settings" }, ...controls),
    make("div", { class: "lab-tools" }, go, clock), said,
    make("div", { class: "lab-charts" }, ...charts.map(({ element }) => element)),
    make("p", { class: "lab-small" }, "Ten of the held-out digits, the answers, and what the class token attends to in the last block:"),
    digits);
};
