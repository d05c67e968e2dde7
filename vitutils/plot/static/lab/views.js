// The views of the laboratory: what is on the screen, and what the reader does there.
// The mathematics is in vit.js, the state in state.js, the view of learning in learn.js.
// A notebook has its own root, models and way to the book: vitutils/plot/laboratory.py.
(() => {
  const root = lab.root ?? document.getElementById("laboratory");
  const { state } = lab,
    math = lab.mathematics();
  const BOOK = lab.book ?? "../";
  const CHAPTERS = `${BOOK}notebooks/`;
  const MODELS = lab.models ?? [
    ["vit_fashion_mnist", "ViT for clothes", "clothes"],
    ["deit_fashion_mnist", "DeiT for clothes", "clothes"],
    ["vit_cifar10", "ViT for photos", "photos"],
  ];
  const SWITCHES = {
    Embeddings: [
      [
        "noPositions",
        "no positions",
        6,
        "06_embeddings",
        "without-positions-a-picture-is-a-bag-of-patches",
      ],
    ],
    Attention: [
      [
        "noScaling",
        "no scaling by √d",
        1,
        "01_scaled_dot_product_attention",
        "what-the-square-root-changes",
      ],
      ["wrongAxis", "softmax over the queries", 1, "01_scaled_dot_product_attention", "the-code"],
      [
        "oneProjection",
        "one projection for q, k and v",
        2,
        "02_multi_head_attention",
        "pitfall-one-projection-for-all-three",
      ],
    ],
    Block: [
      ["noResidual", "no residual", 4, "04_block", "two-paths-through-one-block"],
      ["noNorm", "no LayerNorm", 5, "05_encoder", "the-stream-grows-and-the-last-norm-ends-it"],
    ],
  };
  // What is set where a chapter leads to a question of the page.
  const QUESTIONS = {
    "what-do-the-positions-know": { switches: "noPositions" },
    "what-is-left-without-the-residual": { switches: "noResidual" },
    "what-is-the-scaling-worth": { switches: "noScaling" },
    "the-weights-without-the-scaling": { view: "Look", switches: "noScaling" },
    "one-head-with-the-scaling": { view: "Learn", learn: { heads: 1 } },
    "one-head-without-the-scaling": { view: "Learn", learn: { heads: 1, scaling: false } },
    "what-do-queries-and-keys-have-of-their-own": {
      view: "Look",
      switches: "oneProjection",
      look: [0, 0],
    },
    "when-does-the-class-token-know": { exchanged: 4 },
    "does-the-answer-need-the-last-attention": { silenced: "3.attn" },
    "what-do-two-heads-answer": { view: "Run", model: 1, image: 10 },
    "what-does-a-teacher-add": { view: "Learn", learn: { teacher: true } },
    "what-does-a-broken-schedule-do-to-the-curves": {
      view: "Learn",
      learn: { schedule: "broken" },
    },
  };
  const OTHER = 3; // the image whose class token is taken at first: no boot
  const upTo = (n) => [...Array(n).keys()];
  const percent = (p) => `${(100 * p).toFixed(p < 0.1 ? 1 : 0)} %`;
  const signed = (number) => number.toFixed(2).replace("-", "−");

  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const name in attributes) {
      const value = attributes[name];
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (name.startsWith("aria-") && value != null) element.setAttribute(name, value);
      else if (value === true) element.setAttribute(name, "");
      else if (value !== false && value != null) element.setAttribute(name, value);
    }
    element.append(...children.filter((child) => child != null));
    return element;
  }

  const button = (text, onclick, attributes = {}) =>
    make("button", { type: "button", ...attributes, onclick }, text);

  function select(label, texts, onchange, selected = 0) {
    const box = make(
      "select",
      { onchange: () => onchange(+box.value) },
      ...texts.map((text, i) => make("option", { value: i, selected: i === selected }, text)),
    );
    return make("label", { class: "lab-select" }, label, " ", box);
  }

  /* Let the arrow keys go through the cells of a grid, of which one is a tab stop. */
  function rove(grid, cells, columns) {
    const stop = (cell) => {
      for (const each of cells) each.tabIndex = each === cell ? 0 : -1;
    };
    stop(cells[0]);
    grid.onfocusin = ({ target }) => cells.includes(target) && stop(target);
    grid.onkeydown = (event) => {
      const at = cells.indexOf(event.target),
        row = at - (at % columns);
      if (at < 0 || event.altKey || event.ctrlKey || event.metaKey) return;
      const goal = {
        ArrowLeft: Math.max(row, at - 1),
        ArrowRight: Math.min(row + columns - 1, at + 1),
        ArrowUp: at - columns,
        ArrowDown: at + columns,
        Home: row,
        End: row + columns - 1,
      }[event.key];
      if (goal === undefined) return;
      cells[goal]?.focus();
      event.preventDefault();
    };
  }

  /* Return radio buttons, of which one is chosen, or none. */
  function radios(label, names, contents, onchoose, chosen = 0) {
    const inputs = names.map((name, i) =>
      make("input", {
        type: "radio",
        name: `${root.id}-${label}`,
        checked: i === chosen,
        onchange: () => onchoose(i),
        "aria-label": contents[i] === name ? null : name,
      }),
    );
    return {
      element: make(
        "div",
        { role: "radiogroup", "aria-label": label, class: "lab-radios" },
        ...inputs.map((input, i) => make("label", { title: input.ariaLabel }, input, contents[i])),
      ),
      choose(i) {
        inputs.forEach((input, at) => {
          input.checked = at === i;
        });
      },
    };
  }

  /* Return a link to the part of the glossary that explains a word. */
  // In a tab of its own, or what has been learned and set here would be lost.
  const word = (text, part) =>
    make("a", { href: `${BOOK}book/glossary.html#${part}`, target: "_blank" }, text);

  /* Draw pixels (C, side, side), 0 to 255, on a canvas. */
  function paint(canvas, pixels, side) {
    canvas.width = canvas.height = side;
    const area = side * side,
      channels = pixels.length / area;
    const image = new ImageData(side, side);
    for (let i = 0; i < area; i++) {
      for (let c = 0; c < 3; c++) image.data[4 * i + c] = pixels[(c % channels) * area + i];
      image.data[4 * i + 3] = 255;
    }
    canvas.getContext("2d").putImageData(image, 0, 0);
    return canvas;
  }

  /* Return a picture whose patches can be pointed at and chosen. */
  function patchPicture(label, { choose, point = () => {} }) {
    const canvas = make("canvas"),
      grid = make("div", { role: "grid", "aria-label": label });
    const element = make("div", { class: "lab-picture" }, canvas, grid);
    let cells = [];
    const cellOf = (event) => cells.indexOf(event.target.closest("[role=gridcell]"));
    grid.addEventListener("click", (event) => cellOf(event) >= 0 && choose(cellOf(event)));
    for (const kind of ["pointerover", "focusin"])
      grid.addEventListener(kind, (event) => cellOf(event) >= 0 && point(cellOf(event)));
    grid.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      choose(cellOf(event));
    });
    function build(side) {
      cells = upTo(side * side).map((i) =>
        make(
          "div",
          {
            role: "gridcell",
            "aria-selected": false,
            "aria-label": `row ${Math.floor(i / side) + 1}, column ${(i % side) + 1}`,
          },
          make("i", { class: "lab-dot" }),
        ),
      );
      grid.replaceChildren(
        ...upTo(side).map((r) =>
          make("div", { role: "row" }, ...cells.slice(r * side, (r + 1) * side)),
        ),
      );
      grid.style.setProperty("--columns", side);
      rove(element, cells, side);
    }
    return {
      element,
      show(pixels, config) {
        const side = config.image_size / config.patch_size;
        if (cells.length !== side * side) build(side);
        paint(canvas, pixels, config.image_size);
        return cells;
      },
    };
  }

  /* Return a table of classes, the ten likeliest if there are more: a bar for the probability
  in each of one or more answers, and the number of it, or the logit. */
  function bars(names, rows, { logits = false } = {}) {
    const chances = rows.map((row) => {
      const p = Float64Array.from(row.logits);
      math.softmax(p, 0, p.length);
      return p;
    });
    const best = math.best(chances.at(-1)),
      most = (k) => Math.max(...chances.map((p) => p[k]));
    const shown = upTo(names.length)
      .sort((a, b) => most(b) - most(a))
      .slice(0, 10)
      .sort((a, b) => a - b);
    const figure = (r, k) => (logits ? signed(rows[r].logits[k]) : percent(chances[r][k]));
    const head = ({ name, color }) =>
      make("th", { scope: "col" }, make("i", { style: `background: ${color}` }), name);
    return make(
      "table",
      { class: "lab-bars" },
      make(
        "thead",
        {},
        make(
          "tr",
          {},
          make("th", { scope: "col" }, "class"),
          make("th", { scope: "col" }, "probability"),
          ...rows.map(head),
        ),
      ),
      make(
        "tbody",
        {},
        ...shown.map((k) =>
          make(
            "tr",
            { class: k === best ? "lab-best" : null },
            make("th", { scope: "row" }, names[k]),
            make(
              "td",
              { class: "lab-bar" },
              ...rows.map(({ color }, r) =>
                make("i", {
                  style: `width: ${(100 * chances[r][k]).toFixed(1)}%; background: ${color}`,
                }),
              ),
            ),
            ...rows.map((_, r) => make("td", { class: "lab-number" }, figure(r, k))),
          ),
        ),
      ),
    );
  }
  const chance = (logits) => {
    const p = Float64Array.from(logits);
    math.softmax(p, 0, p.length);
    const best = math.best(p);
    return { best, p: p[best] };
  };

  // ---- what is looked at: a model and an image ----

  let asked = "",
    images = null,
    trace = null,
    whole = null,
    milliseconds = 0,
    otherNames = [];
  const views = {}; // name -> show()
  let current = "Run",
    lookAt = null; // chooses a layer and a head
  const strip = make("div", { class: "lab-strip" });
  const failure = make("p", { class: "lab-failure", role: "alert", hidden: true });

  const models = radios(
    "Model",
    MODELS.map(([, name]) => name),
    MODELS.map(([, name]) => name),
    chooseModel,
  );

  async function chooseModel(number) {
    const [name, , source] = MODELS[number];
    asked = name;
    root.setAttribute("aria-busy", "true");
    failure.hidden = true;
    try {
      const [model, { header, bytes }] = await Promise.all([lab.model(name), lab.load(source)]);
      if (asked !== name) return; // another one was chosen meanwhile
      const same = images?.source === source;
      if (state.model?.name !== name) lab.mend();
      state.model = model;
      if (!same) chooseImages(source, header, bytes);
      update();
    } catch (error) {
      if (asked !== name) return;
      failure.textContent = `${error.message} Reload the page to try again.`;
      failure.hidden = false;
    }
    root.removeAttribute("aria-busy");
  }

  function chooseImages(source, { side, channels, labels, names }, bytes) {
    const length = side * side * channels,
      count = bytes.length / length;
    const pixels = upTo(count).map((i) => bytes.subarray(i * length, (i + 1) * length));
    images = { source, side, channels, pixels, labels };
    let few = upTo(count);
    if (labels)
      few = state.model.classes.flatMap((_, k) => few.filter((i) => labels[i] === k).slice(0, 3));
    const named = few.map((i) =>
      labels ? `image ${i + 1}: ${state.model.classes[labels[i]]}` : names[i],
    );
    images.few = few;
    otherNames = few.map((i, k) => [named[k], i]);
    const thumbs = few.map((i) => paint(make("canvas", { "aria-hidden": true }), pixels[i], side));
    const first = Math.max(0, few.indexOf(0));
    images.first = first;
    images.choice = radios("Image", named, thumbs, (k) => setImage(few[k]), first);
    strip.replaceChildren(images.choice.element);
    state.pixels = pixels[few[first]].slice();
    state.label = labels?.[few[first]] ?? null;
    state.classToken = null;
  }

  function setImage(index) {
    state.pixels = images.pixels[index].slice();
    state.label = images.labels?.[index] ?? null;
    update();
  }

  /* The reader's own picture, which no test image is any more. */
  function setPixels(pixels) {
    state.pixels = pixels;
    state.label = null;
    images.choice.choose(-1);
    update();
  }

  function update() {
    const input = lab.normalize(state.pixels, state.model);
    const start = performance.now();
    whole = math.forward(state.model, input);
    milliseconds = performance.now() - start;
    trace = lab.isWhole() ? whole : math.forward(state.model, input, lab.broken(math));
    views[current]?.();
  }

  /* Take the class token of another image after so many blocks; with 0, before the first. */
  function exchange(after, other) {
    const pixels = images.pixels[otherNames[other][1]];
    state.classToken = after < 0 ? null : { after, other, pixels };
  }

  /* What the model sees: patches shuffled and erased. */
  function seen() {
    const { pixels, order, erased, model } = state,
      { image_size: S, patch_size: P } = model.config;
    const grid = S / P,
      out = pixels.slice(),
      area = S * S,
      channels = pixels.length / area;
    for (let place = 0; place < grid * grid; place++) {
      const from = order ? order[place] : place;
      for (let c = 0; c < channels; c++)
        for (let y = 0; y < P; y++)
          for (let x = 0; x < P; x++) {
            const at = (row, column) => c * area + (row * P + y) * S + column * P + x;
            out[at(Math.floor(place / grid), place % grid)] = erased.has(from)
              ? channels > 1
                ? 255 * model.mean[c]
                : 0
              : pixels[at(Math.floor(from / grid), from % grid)];
          }
    }
    return out;
  }

  const note = () =>
    lab.isWhole()
      ? null
      : make(
          "p",
          { class: "lab-note" },
          "The model is broken, as chosen under Break. ",
          button("Mend it", () => {
            lab.mend();
            update();
          }),
        );

  // ---- Run ----

  function runView() {
    const canvas = make("canvas", { tabindex: -1 });
    const cursor = make("i", { class: "lab-cursor", hidden: true });
    const lines = make("div", { class: "lab-lines" });
    const picture = make("div", { class: "lab-picture" }, canvas, lines, cursor);
    const answer = make("p", { "aria-live": "polite", class: "lab-answer" });
    const facts = make("p", { class: "lab-small" }),
      table = make("div"),
      aside = make("div");
    let drawing = false,
      ink = 255,
      at = null,
      down = false,
      last = null;

    const draw = button("Draw", () => setDrawing(!drawing));
    const rubber = button(
      "Black pen",
      () => {
        ink = ink ? 0 : 255;
        rubber.setAttribute("aria-pressed", ink === 0);
        if (!drawing) setDrawing(true);
      },
      { "aria-pressed": false },
    );
    const blank = button("Blank", () => {
      setPixels(new Uint8Array(state.pixels.length));
      setDrawing(true);
    });
    const file = make("input", { type: "file", accept: "image/*", hidden: true, onchange: own });
    const tools = make(
      "div",
      { class: "lab-tools" },
      draw,
      rubber,
      blank,
      button("Own photo", () => file.click()),
      file,
    );
    const hint = make("p", { class: "lab-small" });

    function setDrawing(on) {
      drawing = on;
      draw.textContent = on ? "Stop drawing" : "Draw";
      picture.classList.toggle("lab-draws", on);
      canvas.tabIndex = on ? 0 : -1;
      if (on) {
        at ??= [images.side / 2, images.side / 2];
        canvas.setAttribute("role", "application");
        canvas.setAttribute(
          "aria-label",
          "drawing pad: arrow keys move the pen, the space bar draws",
        );
        hint.textContent =
          "Draw with a mouse or a finger; or go to the picture by Tab, move by the arrow keys, draw by the space bar.";
      } else {
        canvas.removeAttribute("role");
        hint.textContent =
          "Your photo or drawing stays on your machine: nothing is sent, and no link carries it.";
      }
    }

    /* Draw a line of pixels a little wider than one. */
    function line([x0, y0], [x1, y1]) {
      const side = images.side,
        area = side * side,
        pixels = state.pixels.slice();
      const steps = Math.ceil(Math.hypot(x1 - x0, y1 - y0) * 2) + 1,
        reach = side / 20;
      for (let s = 0; s <= steps; s++) {
        const x = x0 + ((x1 - x0) * s) / steps,
          y = y0 + ((y1 - y0) * s) / steps;
        for (let i = 0; i < area; i++) {
          const far = Math.hypot((i % side) + 0.5 - x, Math.floor(i / side) + 0.5 - y);
          const cover = Math.max(0, Math.min(1, reach + 0.5 - far));
          if (cover)
            for (let c = 0; c < images.channels; c++) {
              const old = pixels[c * area + i],
                fresh = ink * cover + old * (1 - cover);
              pixels[c * area + i] = ink ? Math.max(old, fresh) : Math.min(old, fresh);
            }
        }
      }
      setPixels(pixels);
    }
    const place = (event) => {
      const box = canvas.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top].map(
        (v) => (v / box.width) * images.side,
      );
    };
    canvas.addEventListener("pointerdown", (event) => {
      if (!drawing) return;
      down = true;
      canvas.setPointerCapture(event.pointerId);
      last = at = place(event);
      line(last, last);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!down) return;
      at = place(event);
      line(last, at);
      last = at;
    });
    for (const kind of ["pointerup", "pointercancel"])
      canvas.addEventListener(kind, () => {
        down = false;
      });
    canvas.addEventListener("keydown", (event) => {
      const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[
        event.key
      ];
      if (!drawing || (!move && event.key !== " ")) return;
      event.preventDefault();
      if (move)
        at = at.map((v, i) =>
          Math.max(0.5, Math.min(images.side - 0.5, Math.floor(v) + 0.5 + move[i])),
        );
      else line(at, at);
      cursor.hidden = false;
      cursor.style.translate = `${(at[0] / images.side) * canvas.clientWidth}px ${(at[1] / images.side) * canvas.clientWidth}px`;
    });
    canvas.addEventListener("blur", () => {
      cursor.hidden = true;
    });

    async function own() {
      if (!file.files.length) return;
      try {
        const photo = await createImageBitmap(file.files[0]);
        setPixels(shrunk(photo));
      } catch {
        facts.textContent = "This file is no image that the browser can read.";
      }
      file.value = "";
    }

    const element = make(
      "div",
      { class: "lab-two" },
      make("div", { class: "lab-left" }, picture, tools, hint),
      make("div", { class: "lab-right" }, aside, answer, table, facts),
    );
    setDrawing(false);

    views.Run = () => {
      const { config, classes } = state.model;
      paint(canvas, state.pixels, config.image_size);
      lines.style.setProperty("--columns", config.image_size / config.patch_size);
      const { best, p } = chance(trace.answer);
      const sure =
        state.label === null
          ? ""
          : state.label === best
            ? " That is its label, too."
            : ` Its label is ${classes[state.label]}.`;
      answer.replaceChildren(make("strong", {}, classes[best]), `, with ${percent(p)}.${sure}`);
      const rows = [{ name: "answer", logits: trace.answer, color: "var(--lab-after)" }];
      if (config.distilled)
        rows.unshift(
          { name: "class head", logits: trace.logits[0], color: "var(--lab-class)" },
          { name: "teacher's", logits: trace.logits[1], color: "var(--lab-distill)" },
        );
      table.replaceChildren(bars(classes, rows));
      aside.replaceChildren(...[note()].filter(Boolean));
      const n = (config.image_size / config.patch_size) ** 2;
      const one = trace.N - n === 1;
      facts.replaceChildren(
        `${config.image_size} × ${config.image_size} pixels became ${n} `,
        word("patches", "tokens-and-positions"),
        `, with ${one ? "the " : "class and "}`,
        word(one ? "class token" : "distillation token", "tokens-and-positions"),
        ` ${trace.N} tokens of ${config.embed_dim} numbers; ${config.depth} `,
        word("blocks", "the-model"),
        ` of ${config.num_heads} `,
        word("heads", "attention"),
        ` later the answer was there. It took ${milliseconds.toFixed(0)} ms in this page.`,
      );
    };
    return element;
  }

  /* Cut a photo square and shrink it to what the model wants. */
  function shrunk(photo) {
    const { side, channels } = images,
      least = Math.min(photo.width, photo.height);
    const canvas = make("canvas", { width: side, height: side }),
      pen = canvas.getContext("2d");
    pen.imageSmoothingQuality = "high";
    pen.drawImage(
      photo,
      (photo.width - least) / 2,
      (photo.height - least) / 2,
      least,
      least,
      0,
      0,
      side,
      side,
    );
    const { data } = pen.getImageData(0, 0, side, side),
      area = side * side;
    const gray = (i) => 0.299 * data[4 * i] + 0.587 * data[4 * i + 1] + 0.114 * data[4 * i + 2];
    return Uint8Array.from({ length: channels * area }, (_, i) =>
      channels === 1 ? gray(i) : data[4 * (i % area) + Math.floor(i / area)],
    );
  }

  // ---- Break ----

  function breakView() {
    const said = make("p", { "aria-live": "polite", class: "lab-answer" }),
      table = make("div");
    const unit = make("p", { class: "lab-small" });
    const counted = make("p", { "aria-live": "polite", class: "lab-small" });
    const picture = patchPicture("patches: choose one to erase it", {
      choose(place) {
        const patch = state.order ? state.order[place] : place;
        if (!state.erased.delete(patch)) state.erased.add(patch);
        changed();
      },
    });
    const boxes = []; // what brings each control in step with the state
    let stop = null,
      of = null, // what was counted, which a link or another model may change too
      round = 0;
    const forget = () => {
      stop?.();
      stop = of = null;
      counted.textContent = "";
    };
    const changed = () => {
      forget();
      update();
      if (matchMedia("(prefers-reduced-motion: no-preference)").matches)
        said.animate([{ opacity: 0.2 }, { opacity: 1 }], 400); // look here
    };
    const check = (words, is, turn) => {
      const box = make("input", {
        type: "checkbox",
        onchange: () => {
          turn(box.checked);
          changed();
        },
      });
      boxes.push(() => {
        box.checked = is();
      });
      return make("label", {}, box, " ", words);
    };
    const toSet = (set, name) => [
      () => set.has(name),
      (on) => (on ? set.add(name) : set.delete(name)),
    ];
    const chapter = (number, page, anchor) =>
      make("a", { href: `${CHAPTERS}${page}.html#${anchor}` }, `ch.\u00a0${number}`);
    const width = make("span"); // of a head
    const switches = Object.entries(SWITCHES).map(([part, each]) =>
      make(
        "fieldset",
        {},
        make("legend", {}, part),
        ...each.map(([name, words, ...where]) => {
          const label = check(words, ...toSet(state.switches, name));
          if (name === "noScaling") label.append(width);
          return make("div", {}, label, " ", chapter(...where));
        }),
      ),
    );
    const shuffle = check(
      "shuffle the patches",
      () => state.order !== null,
      (on) => {
        state.order = on
          ? math.shuffled(
              (state.model.config.image_size / state.model.config.patch_size) ** 2,
              math.random(++round),
            )
          : null;
      },
    );
    const imageSet = make(
      "fieldset",
      {},
      make("legend", {}, "Image"),
      make("div", {}, shuffle, " ", chapter(6, "06_embeddings", "is-this-picture-in-order")),
      make(
        "div",
        {},
        "Choose a patch to erase it, again to bring it back. ",
        chapter(16, "16_testing_maps", "one-map-in-one-network"),
      ),
    );

    // parts to silence: a row for each block
    const silence = make("div", { class: "lab-silence" });
    const silenceSet = make(
      "fieldset",
      {},
      make("legend", {}, "Silenced"),
      silence,
      make(
        "div",
        {},
        "Attention: ",
        chapter(16, "16_testing_maps", "most-answers-do-not-need-the-last-attention"),
        ", MLP: ",
        chapter(3, "03_mlp", "what-attention-leaves-undone"),
        ", heads: ",
        chapter(9, "09_attention_maps", "explore-the-weights"),
      ),
    );
    function buildSilence({ depth, num_heads }) {
      if (silence.dataset.built === `${depth} ${num_heads}`) return;
      silence.dataset.built = `${depth} ${num_heads}`;
      silence.replaceChildren(
        ...upTo(depth).map((i) => {
          const parts = [
            ["", "all"],
            [".attn", "attention"],
            [".mlp", "MLP"],
            ...upTo(num_heads).map((h) => [`.head.${h}`, `${h + 1}`]),
          ];
          return make(
            "div",
            { role: "group", "aria-label": `block ${i + 1}` },
            make("span", {}, `block ${i + 1}`),
            ...parts.flatMap(([part, words]) => {
              const name = `${i}${part}`,
                [is, turn] = toSet(state.silenced, name);
              const each = button(
                words,
                () => {
                  turn(!is());
                  changed();
                },
                {
                  "aria-pressed": false,
                  "aria-label": part.startsWith(".head") ? `head ${words}` : null,
                },
              );
              boxes.push(() => each.setAttribute("aria-pressed", is()));
              return part === ".head.0" ? [make("small", {}, "heads"), each] : each;
            }),
          );
        }),
      );
    }

    // the class token of another image
    const tokenSet = make("fieldset", {}, make("legend", {}, "Class token from another image"));
    const donor = make("canvas", { "aria-hidden": true, class: "lab-donor" });
    let tokenOf = "",
      from = null; // the list of images
    function buildToken() {
      const key = images.source + state.model.config.depth;
      if (tokenOf === key) return;
      tokenOf = key;
      const set = () => {
        exchange(+where.lastChild.value - 1, +which.lastChild.value);
        changed();
      };
      const where = select(
        "exchanged",
        [
          "nowhere",
          "before block 1",
          ...upTo(state.model.config.depth).map((i) => `after block ${i + 1}`),
        ],
        set,
      );
      const which = select(
        "from",
        otherNames.map(([name]) => name),
        set,
        Math.min(OTHER, otherNames.length - 1),
      );
      from = which.lastChild;
      boxes.push(() => {
        where.lastChild.value = (state.classToken?.after ?? -1) + 1;
        if (state.classToken) which.lastChild.value = state.classToken.other;
      });
      tokenSet.replaceChildren(
        make("legend", {}, "Class token from another image"),
        make("div", {}, where),
        make("div", {}, which, " ", donor),
        make("div", {}, chapter(7, "07_vision_transformer", "what-it-computes")),
      );
    }

    const count = button("Count", () => {
      forget();
      of = lab.described();
      counted.textContent = "Counting …";
      const model = { config: state.model.config, parameters: state.model.parameters };
      const inputs = images.pixels.map((pixels) => lab.normalize(pixels, state.model));
      stop = lab.start(
        lab.count,
        { model, images: inputs, labels: images.labels, broken: lab.broken(math) },
        ({ done, right, error }) => {
          if (error) counted.textContent = `The worker failed: ${error}`;
          else if (done < inputs.length)
            counted.textContent = `Counting … ${done} of ${inputs.length}`;
          else {
            const [before, after] = right.map(
              (each) => `${each} of ${done} (${percent(each / done)})`,
            );
            counted.textContent = `Right answers: whole ${before}, broken ${after}.`;
            stop();
            stop = null;
          }
        },
      );
    });
    const mend = button("Mend all", () => {
      lab.mend();
      changed();
    });
    const element = make(
      "div",
      {},
      make("div", { class: "lab-sticky" }, said, mend),
      make(
        "div",
        { class: "lab-two" },
        make("div", { class: "lab-left" }, picture.element),
        make(
          "div",
          { class: "lab-right" },
          table,
          unit,
          make("div", { class: "lab-tools" }, count),
          counted,
        ),
      ),
      make("div", { class: "lab-switches" }, imageSet, ...switches, tokenSet, silenceSet),
    );

    views.Break = () => {
      const { model, erased, order } = state,
        { classes } = model;
      if (of !== null && of !== lab.described()) forget();
      buildSilence(model.config);
      buildToken();
      boxes.forEach((step) => step());
      paint(donor, images.pixels[otherNames[from.value][1]], images.side);
      width.textContent = ` (here √${model.config.embed_dim / model.config.num_heads})`;
      const cells = picture.show(seen(), model.config);
      cells.forEach((cell, place) =>
        cell.setAttribute("aria-selected", erased.has(order ? order[place] : place)),
      );
      const [before, after] = [chance(whole.answer), chance(trace.answer)];
      const { distilled } = model.config,
        unchanged = before.best === after.best,
        [was, is] = [whole, trace].map(({ answer }) => signed(answer[before.best]));
      said.replaceChildren(
        ...(lab.isWhole()
          ? [
              "Nothing is broken yet: it says ",
              make("strong", {}, classes[before.best]),
              ` (${percent(before.p)}).`,
            ]
          : [
              "Whole, it says ",
              make("strong", {}, classes[before.best]),
              ` (${percent(before.p)}); broken, `,
              make("strong", {}, classes[after.best]),
              ` (${percent(after.p)}).`,
              unchanged ? ` Its ${distilled ? "logarithm" : "logit"} ` : "",
              unchanged ? (was === is ? `is ${was} as before.` : `went from ${was} to ${is}.`) : "",
            ]),
      );
      const logits = word("logits", "the-model");
      unit.replaceChildren(
        ...(distilled
          ? [
              "A DeiT answers with the mean of its heads’ probabilities; the numbers are its logarithms.",
            ]
          : ["The numbers are the ", logits, ", whose softmax is the probabilities."]),
      );
      table.replaceChildren(
        bars(
          classes,
          [
            {
              name: `${distilled ? "logarithm" : "logit"} before`,
              logits: whole.answer,
              color: "var(--lab-before)",
            },
            { name: "after", logits: trace.answer, color: "var(--lab-after)" },
          ],
          { logits: true },
        ),
      );
      count.textContent = `Count on ${images.pixels.length} images`;
      count.disabled = !images.labels;
      if (!images.labels) counted.textContent = "These images have no labels to count by.";
    };
    return element;
  }

  // ---- Look ----

  function lookView() {
    let query = 0,
      at = null,
      layer = -1,
      head = -1; // -1: the last, the mean
    const controls = make("div", { class: "lab-tools" }),
      tokens = make("div", { class: "lab-tools" });
    const said = make("p", { "aria-live": "polite", class: "lab-answer" }),
      stream = make("div"),
      lens = make("div"),
      pair = make("div"),
      largest = make("span"),
      warning = make("div");
    const first = () =>
      state.model.config.distilled ? ["class token", "distillation token"] : ["class token"];
    const picture = patchPicture(
      "patches: point at one to read its weight, choose it to see what it attends to",
      {
        choose(place) {
          query = at = place + first().length;
          views.Look();
        },
        point(place) {
          at = place + first().length;
          tell();
        },
      },
    );
    let built = "",
      row = [];
    lookAt = (wantedLayer, wantedHead) => {
      [layer, head] = [wantedLayer, wantedHead];
      [...controls.children].forEach((each, i) => {
        each.lastChild.value = i ? head + 1 : layer;
      });
      views.Look();
    };

    function build({ depth, num_heads }) {
      const key = `${depth} ${num_heads} ${first().length}`;
      if (built === key) return;
      built = key;
      [layer, head, query, at] = [depth - 1, -1, 0, null];
      controls.replaceChildren(
        select(
          "Layer",
          upTo(depth).map((i) => i + 1),
          (i) => {
            layer = i;
            views.Look();
          },
          layer,
        ),
        select("Head", ["mean", ...upTo(num_heads).map((h) => h + 1)], (i) => {
          head = i - 1;
          views.Look();
        }),
      );
      tokens.replaceChildren(
        ...first().map((name, token) =>
          button(
            name,
            () => {
              query = token;
              at = null;
              views.Look();
            },
            { "aria-pressed": token === 0 },
          ),
        ),
      );
    }

    /* What the query gives to each token: the weights of a head, or the mean of all. */
    function weightsOf() {
      const {
          attention: { weights },
        } = trace.blocks[layer],
        { N } = trace,
        { num_heads } = state.model.config;
      const chosen = head < 0 ? upTo(num_heads) : [head];
      return upTo(N).map((j) =>
        chosen.reduce((sum, h) => sum + weights[(h * N + query) * N + j] / chosen.length, 0),
      );
    }

    const label = (token) => {
      const { config } = state.model,
        side = config.image_size / config.patch_size,
        place = token - first().length;
      return (
        first()[token] ??
        `patch in row ${Math.floor(place / side) + 1}, column ${(place % side) + 1}`
      );
    };
    function tell() {
      const best = math.best(row),
        the = (token) => (token === query ? "itself" : `the ${label(token)}`);
      said.textContent =
        `Layer ${layer + 1}, ${head < 0 ? "mean of heads" : `head ${head + 1}`}: ` +
        `the ${label(query)} takes most from ${the(best)} (${percent(row[best])})` +
        (at === null || at === best ? "." : `, and ${percent(row[at])} from ${the(at)}.`);
      pair.replaceChildren(head < 0 ? chooseHead : pairing(at ?? best));
    }

    /* How a weight comes about: a query, a key, and their product number by number. */
    function pairing(key) {
      const { qkv, attention } = trace.blocks[layer],
        { N } = trace;
      const { embed_dim: D, num_heads } = state.model.config,
        width = D / num_heads;
      const { switches } = state;
      const part = (token, which) => {
        const start = (3 * token + which) * D + head * width;
        return qkv.subarray(start, start + width);
      };
      const q = part(query, 0),
        k = part(key, switches.has("oneProjection") ? 0 : 1);
      const products = q.map((x, d) => x * k[d]),
        most = (...numbers) => Math.max(...numbers.map(Math.abs)) || 1;
      const logit = attention.logits[(head * N + query) * N + key];
      const line = (name, numbers, scale, color) => {
        const edge = (x) => (50 - (50 * Math.max(0, x)) / scale).toFixed(1); // from the top
        return make(
          "tr",
          {},
          make("th", { scope: "row" }, name),
          make(
            "td",
            {},
            make(
              "div",
              {
                role: "img",
                class: "lab-vector",
                style: `color: ${color}`,
                "aria-label": [...numbers].map((x) => signed(x)).join(", "),
              },
              ...[...numbers].map((x) =>
                make("i", { style: `clip-path: inset(${edge(x)}% 0 ${edge(-x)}%)` }),
              ),
            ),
          ),
        );
      };
      const sum = signed(products.reduce((all, x) => all + x, 0));
      return make(
        "div",
        {},
        make(
          "table",
          { class: "lab-pair" },
          make("caption", {}, `Where the ${percent(row[key])} come from: ${width} numbers each`),
          make(
            "tbody",
            {},
            line(`query of the ${label(query)}`, q, most(...q, ...k), "var(--lab-query)"),
            line(`key of the ${label(key)}`, k, most(...q, ...k), "var(--lab-key)"),
            line("products", products, most(...products), "var(--lab-attention)"),
          ),
        ),
        make(
          "p",
          { class: "lab-small" },
          `The products’ sum is ${sum}` +
            (switches.has("noScaling")
              ? ", the logit"
              : `; divided by √${width} it is ${signed(logit)}, the logit`) +
            `. Softmax over all ${N} ${switches.has("wrongAxis") ? "queries" : "keys"} ` +
            "turns logits into weights.",
        ),
      );
    }
    const chooseHead = make(
      "p",
      { class: "lab-small" },
      "Choose a head, and you see the query and the key that its weight comes from.",
    );

    const size = (x, start, length) => Math.hypot(...x.subarray(start, start + length));
    function sizes() {
      const { embed_dim: D } = state.model.config,
        { N } = trace,
        from = first().length;
      const mean = (x) =>
        upTo(N - from).reduce((sum, i) => sum + size(x, (from + i) * D, D), 0) / (N - from);
      const rows = [
        ["embeddings", trace.embedded, null],
        ...trace.blocks.map((block, i) => [`block ${i + 1}`, block.out, block]),
      ];
      const most = Math.max(...rows.flatMap(([, x]) => [size(x, 0, D), mean(x)]), 1e-9);
      const bar = (value, color) =>
        make(
          "td",
          { class: "lab-length" },
          make("i", {
            style: `width: ${((2.2 * value) / most).toFixed(2)}rem; background: ${color}`,
          }),
          value.toFixed(1),
        );
      return make(
        "table",
        {},
        make(
          "caption",
          {},
          "Length of the ",
          word("tokens", "tokens-and-positions"),
          " after each block, and of what its two halves add to the class token",
        ),
        make(
          "thead",
          {},
          make(
            "tr",
            {},
            make("td"),
            ...["class token", "patches, mean", "attention adds", "MLP adds"].map((words) =>
              make("th", { scope: "col" }, words),
            ),
          ),
        ),
        make(
          "tbody",
          {},
          ...rows.map(([name, x, block]) =>
            make(
              "tr",
              {},
              make("th", { scope: "row" }, name),
              bar(size(x, 0, D), "var(--lab-class)"),
              bar(mean(x), "var(--lab-patch)"),
              ...["attended", "added"].map((part) =>
                make(
                  "td",
                  { class: "lab-plain" },
                  block ? size(block[part], 0, D).toFixed(1) : "–",
                ),
              ),
            ),
          ),
        ),
      );
    }
    function lensTable() {
      const { classes, config } = state.model,
        answers = math.lens(state.model, trace);
      const names = config.distilled ? ["class head", "teacher's head"] : ["answer"];
      const final = names.map((_, i) => chance(answers.at(-1).logits[i]).best);
      const cell = (logits, goal) => {
        const p = Float64Array.from(logits);
        math.softmax(p, 0, p.length);
        const best = math.best(p);
        return make(
          "td",
          { class: "lab-length" },
          make("i", {
            style: `width: ${((names.length > 1 ? 1.2 : 8) * p[best]).toFixed(2)}rem; background: ${best === goal ? "var(--lab-after)" : "var(--lab-before)"}`,
          }),
          `${classes[best]} ${percent(p[best])}`,
        );
      };
      return make(
        "table",
        {},
        make(
          "caption",
          {},
          "What the ",
          word("head", "the-model"),
          " would answer after each block (logit lens); violet: the final answer",
        ),
        make(
          "thead",
          {},
          make("tr", {}, make("td"), ...names.map((name) => make("th", { scope: "col" }, name))),
        ),
        make(
          "tbody",
          {},
          ...answers.map(({ logits }, i) =>
            make(
              "tr",
              {},
              make("th", { scope: "row" }, i ? `block ${i}` : "embeddings"),
              ...logits.map((each, k) => cell(each, final[k])),
            ),
          ),
        ),
      );
    }

    views.Look = () => {
      build(state.model.config);
      row = weightsOf();
      const cells = picture.show(seen(), state.model.config),
        from = first().length;
      const most = Math.max(...row.slice(from), 1e-9);
      cells.forEach((cell, place) => {
        cell.setAttribute("aria-selected", place + from === query);
        cell.style.setProperty("--share", Math.sqrt(row[place + from] / most).toFixed(3)); // its area
      });
      largest.textContent = percent(most);
      [...tokens.children].forEach((each, token) => {
        each.setAttribute("aria-pressed", token === query);
        each.textContent = `${first()[token]} ${percent(row[token])}`;
      });
      tell();
      warning.replaceChildren(...[note()].filter(Boolean));
      stream.replaceChildren(sizes());
      lens.replaceChildren(lensTable());
    };
    return make(
      "div",
      {},
      warning,
      make(
        "div",
        { class: "lab-two" },
        make(
          "div",
          { class: "lab-left" },
          picture.element,
          make(
            "p",
            { class: "lab-small" },
            "A dot’s area is the ",
            word("weight", "attention"),
            " that the chosen token gives to the patch, ",
            largest,
            " the largest. Choose a patch, or a token here:",
          ),
          tokens,
        ),
        make("div", { class: "lab-right" }, controls, said, pair, lens, stream),
      ),
    );
  }

  // ---- the page ----

  /* Begin as a link to a question of the page wants it. */
  async function ask() {
    const asked = QUESTIONS[location.hash.slice(1)];
    if (!asked) return;
    const { view = "Break", model = 0, switches, silenced, exchanged, look, learn } = asked;
    models.choose(model);
    await chooseModel(model);
    const image = asked.image ?? images.first; // and none that the reader has drawn
    lab.mend();
    if (switches) state.switches.add(switches);
    if (silenced) state.silenced.add(silenced);
    if (exchanged) exchange(exchanged, OTHER);
    if (learn) lab.chooseLearning(learn);
    images.choice.choose(image);
    open(view);
    setImage(images.few[image]);
    if (look) lookAt(...look);
    root.scrollIntoView({ behavior: "instant" });
  }

  const TABS = { Run: runView, Break: breakView, Look: lookView };
  if (lab.learnView) TABS.Learn = lab.learnView;
  const names = Object.keys(TABS);
  const idOf = (name) => `${root.id}-${name}`;
  const tabs = names.map((name) =>
    button(name, () => open(name), {
      role: "tab",
      id: `${idOf(name)}-tab`,
      "aria-controls": idOf(name),
    }),
  );
  const list = make(
    "div",
    { role: "tablist", "aria-label": "Laboratory", class: "lab-tabs" },
    ...tabs,
  );
  models.element.hidden = MODELS.length === 1;
  const choices = make("div", { class: "lab-choices" }, models.element, strip);
  const panels = names.map((name) =>
    make(
      "div",
      {
        role: "tabpanel",
        id: idOf(name),
        "aria-labelledby": `${idOf(name)}-tab`,
        class: `lab-panel lab-${name}`,
      },
      TABS[name]({ make, button, select, paint, percent, word, CHAPTERS }),
    ),
  );

  function open(name) {
    current = name;
    tabs.forEach((tab, i) => {
      tab.setAttribute("aria-selected", names[i] === name);
      tab.tabIndex = names[i] === name ? 0 : -1;
      panels[i].hidden = names[i] !== name;
    });
    choices.hidden = name === "Learn";
    if (trace) views[name]?.();
  }
  list.addEventListener("keydown", ({ key }) => {
    const at = names.indexOf(current),
      n = names.length;
    const goal = { ArrowLeft: (at + n - 1) % n, ArrowRight: (at + 1) % n, Home: 0, End: n - 1 }[
      key
    ];
    if (goal === undefined) return;
    open(names[goal]);
    tabs[goal].focus();
  });
  root.replaceChildren(list, choices, failure, ...panels);
  root.classList.add("lab-live");
  open("Run");
  const loaded = new Promise((done) => {
    if (document.readyState === "complete") done();
    else addEventListener("load", done); // until then the browser scrolls to the question
  });
  Promise.all([chooseModel(0), loaded]).then(ask);
  addEventListener("hashchange", ask);
  document.addEventListener("click", ({ target }) => {
    if (location.hash && target.closest?.(`a[href="${location.hash}"]`)) ask(); // once more
  });
})();
