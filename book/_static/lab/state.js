// The state of the laboratory: its files, what the reader has chosen, and the worker that
// counts and learns while the page stays alive.
globalThis.lab ??= {};

// ---- files: scripts that tools/laboratory.py writes, loaded when they are needed ----

lab.folder = globalThis.document?.currentScript?.src.replace(/[^/]*$/, "");
lab.files = {}; // name -> a promise of {header, bytes}
lab.waiting = {}; // name -> what settles it

lab.receive = (name, header, length, text) =>
  lab.waiting[name](lab.unpack(text, length).then((bytes) => ({ header, bytes })));

lab.load = (name) =>
  (lab.files[name] ??= new Promise((resolve, reject) => {
    lab.waiting[name] = resolve;
    const script = document.createElement("script");
    script.src = `${lab.folder}${name}.js`;
    script.onerror = () => {
      delete lab.files[name]; // so that the reader may try again
      reject(new Error(`The file ${name}.js did not load.`));
    };
    document.head.append(script);
  }));

/* Return the bytes that a text of 15 bits a character carries, compressed to a length. */
lab.unpack = async (text, length) => {
  const bytes = new Uint8Array(length);
  for (let i = 0, to = 0, held = 0, bits = 0; to < length; i++) {
    held = ((held & 0xff) << 15) | (text.charCodeAt(i) - 0x3400); // at most 7 bits wait
    for (bits += 15; bits >= 8 && to < length; ) bytes[to++] = held >> (bits -= 8);
  }
  const inflate = new DecompressionStream("deflate");
  const stream = new Blob([bytes]).stream().pipeThrough(inflate);
  return new Uint8Array(await new Response(stream).arrayBuffer());
};

/* Return a model: its numbers are the upper three bytes of float32, in three planes, of
all parameters in the order of their names. */
lab.model = async (name) => {
  const { header, bytes } = await lab.load(name);
  const n = bytes.length / 3,
    words = new Uint32Array(n);
  for (let i = 0; i < n; i++)
    words[i] = (bytes[i] << 24) | (bytes[n + i] << 16) | (bytes[2 * n + i] << 8);
  const numbers = new Float32Array(words.buffer);
  const { parameters } = lab.mathematics().newModel(header.config, 0);
  let start = 0;
  for (const key of Object.keys(parameters).sort()) {
    const { length } = parameters[key];
    parameters[key] = numbers.subarray(start, (start += length));
  }
  return { name, parameters, ...header };
};

/* Normalize pixels from 0 to 255, (C, H, W), as a model wants them. */
lab.normalize = (pixels, { mean, std }) => {
  const length = pixels.length / mean.length;
  return Float32Array.from(pixels, (value, i) => {
    const channel = Math.floor(i / length);
    return (value / 255 - mean[channel]) / std[channel];
  });
};

// ---- what the reader has chosen, and what follows from it ----

lab.state = {
  model: null, // of lab.model
  pixels: null, // (C, H, W), 0 to 255
  label: null, // the right class, where it is known
  order: null, // of the patches, where they are shuffled
  erased: new Set(),
  switches: new Set(), // names of `broken` that are on
  silenced: new Set(),
  classToken: null, // {after, pixels, what}
};

/* Return `broken` of vit.js for the model as it is now. */
lab.broken = (math) => {
  const { model, order, erased, switches, silenced, classToken } = lab.state;
  const broken = Object.fromEntries([...switches].map((name) => [name, true]));
  if (order) broken.shuffle = order;
  if (erased.size) {
    broken.erased = erased;
    // Black for gray images, as their ground is; the mean color for photographs.
    broken.blank = model.mean.map((mean, c) => (model.mean.length > 1 ? 0 : -mean / model.std[c]));
  }
  if (silenced.size) broken.silenced = silenced;
  if (classToken) {
    const other = math.forward(model, lab.normalize(classToken.pixels, model));
    const { after } = classToken,
      [{ x }] = other.blocks;
    const tokens = after ? other.blocks[after - 1].out : x;
    broken.classToken = { after, token: tokens.slice(0, model.config.embed_dim) };
  }
  return broken;
};

lab.isWhole = () => {
  const { order, erased, switches, silenced, classToken } = lab.state;
  return !order && !classToken && !erased.size && !switches.size && !silenced.size;
};

lab.mend = () => {
  Object.assign(lab.state, { order: null, classToken: null });
  for (const name of ["erased", "switches", "silenced"]) lab.state[name].clear();
};

// ---- the worker: a blob, so that it starts from a folder too ----

/* Start a worker on a task; `tell` hears what it posts. Return what ends it. */
lab.start = (task, tell) => {
  const source = `(${lab.work})((${lab.mathematics})());`;
  const address = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
  const worker = new Worker(address);
  worker.onmessage = ({ data }) => tell(data);
  worker.onerror = ({ message }) => tell({ error: message });
  worker.postMessage(task);
  return () => {
    worker.terminate();
    URL.revokeObjectURL(address);
  };
};

lab.work = (math) => {
  const best = (logits, start, K) => {
    let most = start;
    for (let k = start; k < start + K; k++) if (logits[k] > logits[most]) most = k;
    return most - start;
  };

  /* Count right answers, of the whole model and of the broken one. */
  function count({ model, images, labels, broken }) {
    const right = [0, 0];
    images.forEach((image, i) => {
      [{}, broken].forEach((each, which) => {
        const { answer } = math.forward(model, image, each);
        right[which] += best(answer, 0, answer.length) === labels[i];
      });
      if (i % 20 === 19 || i === images.length - 1) postMessage({ done: i + 1, right });
    });
  }

  /* Let a new model learn digits; tell the loss of each step, and how it fares. */
  function learn({
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
  }) {
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
      const answers = [...Array(n).keys()].map((id) => best(logits, id * 10, 10));
      postMessage({ teacher: test.filter((id) => answers[id] === labels[id]).length / held });
      return answers;
    }

    function validate() {
      const { answer } = math.forward(model, read(test), broken);
      const right = test.filter((id, i) => best(answer, i * 10, 10) === labels[id]).length;
      const few = math.forward(model, read(shown), broken),
        N = few.N;
      const weights = few.blocks.at(-1).attention.weights;
      const digitsNow = shown.map((id, i) => {
        const attention = new Float32Array(patches); // of the class token, mean of heads
        for (let h = 0; h < sizes.heads; h++)
          for (let j = N - patches; j < N; j++)
            attention[j - N + patches] += weights[(i * sizes.heads + h) * N * N + j] / sizes.heads;
        const said = best(few.answer, i * 10, 10);
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
  }

  onmessage = ({ data }) => (data.kind === "count" ? count : learn)(data);
};
