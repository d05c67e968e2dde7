// The attention explorer: puts controls in place of the static picture.
//
// `at` is the token pointed at, `pin` the pinned one or null. The query is the pinned
// token, else the one pointed at; explorer.py tells the readers' side of it.
(data) => {
  const {
    tokens,
    layers,
    heads,
    grid: [rows, columns],
  } = data;
  const first = tokens.length,
    N = first + rows * columns;
  const bytes = Uint8Array.from(atob(data.weights), (c) => c.charCodeAt(0));
  const largest = new Float32Array(bytes.buffer, 0, layers * heads * N);
  const levels = bytes.subarray(largest.byteLength); // 255 sqrt(weight / largest)

  // What a query gives to each token: the mean over the chosen heads.
  function attention(layer, chosen, query) {
    const weights = new Float64Array(N);
    for (const head of chosen) {
      const row = (layer * heads + head) * N + query;
      for (let k = 0; k < N; k++)
        weights[k] += (largest[row] * (levels[row * N + k] / 255) ** 2) / chosen.length;
    }
    return weights;
  }

  const upTo = (n) => [...Array(n).keys()];
  const clamp = (x, n) => Math.max(0, Math.min(n - 1, x));
  const place = (k) => [Math.floor((k - first) / columns), (k - first) % columns];
  const label = (k) => tokens[k] ?? `row\u00a0${place(k)[0] + 1}, column\u00a0${place(k)[1] + 1}`;
  const percent = (w) => `${(100 * w).toFixed(w < 0.01 ? 2 : 1)}\u00a0%`;
  const argmax = (weights, from) =>
    weights.reduce((best, w, k) => (k > from && w > weights[best] ? k : best), from);

  function make(tag, attributes, ...children) {
    const element = document.createElement(tag);
    for (const name in attributes) element.setAttribute(name, attributes[name]);
    element.append(...children);
    return element;
  }

  function makeToken(k) {
    const kind = tokens[k].split(" ")[0];
    return make(
      "button",
      { type: "button", class: `token ${kind}` },
      make("span", { class: "tile" }, make("i", { class: "dot" })),
      tokens[k],
      make("span", { class: "number" }),
    );
  }

  function makePatch(k) {
    const across = place(k)[1] / Math.max(1, columns - 1); // keeps its tag inside
    return make(
      "div",
      {
        role: "gridcell",
        "aria-label": label(k),
        tabindex: k > first ? -1 : 0,
        style: `--across: ${across}`,
      },
      make("i", { class: "dot" }),
    );
  }

  function makeSelect(texts, selected) {
    const options = texts.map((text, i) => make("option", { value: i }, text));
    const select = make("select", {}, ...options);
    select.value = selected;
    return select;
  }

  function build(root) {
    let at = 0,
      pin = null;
    const cells = upTo(N).map((k) => (k < first ? makeToken(k) : makePatch(k)));
    cells.forEach((cell, k) => {
      cell.dataset.token = k;
    });
    const lines = upTo(rows).map((r) =>
      make("div", { role: "row" }, ...cells.slice(first + r * columns, first + (r + 1) * columns)),
    );
    const layer = makeSelect(
      upTo(layers).map((i) => i + 1),
      layers - 1,
    );
    const head = makeSelect(["mean", ...upTo(heads).map((i) => i + 1)], 0);
    const most = make("span", {}),
      quarter = make("span", {});
    const text = make("p", { "aria-live": "polite" });
    const view = make(
      "div",
      { class: "view" },
      make(
        "div",
        { class: "picture" },
        root.querySelector("img"),
        make("div", { role: "grid", "aria-label": "patches of the image" }, ...lines),
      ),
      make(
        "div",
        { class: "scale" },
        make("i", { class: "dot" }),
        most,
        make("i", { class: "dot quarter" }),
        quarter,
      ),
    );
    const panel = make(
      "div",
      { class: "panel" },
      make(
        "p",
        { class: "hint" },
        "Point at a patch or a token to see what it " +
          "attends to. Click it (tap again, press Enter) to pin it; then point at " +
          "others to read its weights.",
      ),
      make("div", {}, make("label", {}, "Layer ", layer), make("label", {}, "Head ", head)),
      make("div", {}, ...cells.slice(0, first)),
      text,
    );
    root.replaceChildren(root.querySelector("strong") ?? "", view, panel);
    root.classList.add("live");

    function show() {
      const query = pin ?? at,
        chosen = +head.value ? [head.value - 1] : upTo(heads);
      const weights = attention(+layer.value, chosen, query);
      const best = argmax(weights, 0),
        bestPatch = argmax(weights, first);
      cells.forEach((cell, k) => {
        const share = Math.min(1, weights[k] / weights[bestPatch] || 0);
        cell.style.setProperty("--size", Math.sqrt(share)); // the area is the weight
        cell.classList.toggle("query", k === query);
        cell.classList.toggle("pinned", k === pin);
        cell.classList.toggle("read", k === at && k !== query);
        cell.setAttribute(k < first ? "aria-pressed" : "aria-selected", k === query);
        cell.dataset.weight = percent(weights[k]);
        if (k < first) cell.lastChild.textContent = percent(weights[k]);
      });
      most.textContent = percent(weights[bestPatch]);
      quarter.textContent = percent(weights[bestPatch] / 4);
      text.textContent = sentence(weights, query, best, bestPatch);
    }

    function sentence(weights, query, best, bestPatch) {
      const the = (k) => (k < first ? "the " : "") + label(k);
      const to = (k) => (k === query ? "itself" : the(k));
      const others = new Set([bestPatch, ...tokens.keys(), query]);
      others.delete(best);
      return (
        `Layer ${+layer.value + 1}, ` +
        (+head.value ? `head ${head.value}. ` : "mean of heads. ") +
        (query < first ? "The " : "Patch ") +
        label(query) +
        (pin === null ? "" : " (pinned)") +
        ` attends most to ${to(best)} (${percent(weights[best])}); ` +
        [...others].map((k) => `${percent(weights[k])} to ${to(k)}`).join(", ") +
        "." +
        (at === query ? "" : ` At ${the(at)}: ${percent(weights[at])}.`)
      );
    }

    const token = (event) => Number(event.target.closest("[data-token]")?.dataset.token ?? -1);
    const patchAt = ([r, c]) => cells[first + clamp(r, rows) * columns + clamp(c, columns)];
    const point = (k) => {
      at = k;
      show();
    };
    function hover(event) {
      if (event.pointerType === "touch") return; // a finger that scrolls does not point
      if (token(event) >= 0 && event.type === "pointerover") point(token(event));
      else if (pin !== null) point(pin);
    }

    root.addEventListener("pointerover", hover);
    root.addEventListener("pointerleave", hover);
    root.addEventListener("click", (event) => {
      const k = token(event);
      if (k < 0) return;
      if (k === at) pin = k === pin ? null : k; // a first tap only points
      point(k);
    });
    root.addEventListener("focusin", (event) => {
      const k = token(event);
      if (k < 0) return;
      const patches = k < first ? [] : cells.slice(first);
      for (const cell of patches) cell.tabIndex = cell === event.target ? 0 : -1;
      if (event.target.matches(":focus-visible")) point(k); // by key, not by click
    });
    root.addEventListener("keydown", (event) => {
      const { key, ctrlKey: ctrl } = event,
        free = event.altKey || event.metaKey;
      // VS Code's notebook would take what comes through.
      if (!ctrl && !free && !/^F\d/.test(key) && (key !== "Escape" || pin !== null))
        event.stopPropagation();
      if (key === "Escape") {
        pin = null;
        show();
      }
      const k = token(event),
        [r, c] = place(k);
      if (k < first || free) return;
      const goal = {
        ArrowUp: [r - 1, c],
        ArrowDown: [r + 1, c],
        ArrowLeft: [r, c - 1],
        ArrowRight: [r, c + 1],
        Home: [ctrl ? 0 : r, 0],
        End: [ctrl ? rows - 1 : r, columns - 1],
      }[key];
      if (goal) patchAt(goal).focus();
      else if (key === "Enter" || key === " ") event.target.click();
      else return;
      event.preventDefault(); // the page stays where it is
      event.stopPropagation(); // Control and End, too
    });
    root.addEventListener("change", show);
    show();
  }

  // By name, not by document.currentScript: notebooks re-create an output's scripts.
  // The first script of equal explorers starts them all; the mark is a property, so
  // that a copy of the page's HTML starts afresh.
  for (const root of document.querySelectorAll(`[data-explorer="${data.id}"]`)) {
    if (!root.started) build(root);
    root.started = true;
  }
};
