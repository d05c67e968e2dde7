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
lab.unpack = (text, length) => {
  const bytes = new Uint8Array(length);
  for (let i = 0, to = 0, held = 0, bits = 0; to < length; i++) {
    held = ((held & 0xff) << 15) | (text.charCodeAt(i) - 0x3400); // at most 7 bits wait
    for (bits += 15; bits >= 8 && to < length; ) bytes[to++] = held >> (bits -= 8);
  }
  return lab.inflate(bytes);
};

lab.inflate = async (bytes) => {
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
  classToken: null, // {after, other, pixels}
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

/* Return a text that is another one for another model or other damage. */
lab.described = () => {
  const { model, order, erased, switches, silenced, classToken } = lab.state;
  const sets = [erased, switches, silenced].map((set) => [...set].sort());
  return JSON.stringify([model.name, order, sets, classToken?.after, classToken?.other]);
};

lab.mend = () => {
  Object.assign(lab.state, { order: null, classToken: null });
  for (const name of ["erased", "switches", "silenced"]) lab.state[name].clear();
};

// ---- the worker: a blob, so that it starts from a folder too ----

/* Let a worker do `work`, a function of the mathematics, on a task; `tell` hears what it
posts. Return what ends it. */
lab.start = (work, task, tell) => {
  const source = `onmessage = (${work})((${lab.mathematics})());`;
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

/* Count right answers, of the whole model and of the broken one. */
lab.count =
  (math) =>
  ({ data: { model, images, labels, broken } }) => {
    const right = [0, 0];
    images.forEach((image, i) => {
      [{}, broken].forEach((each, which) => {
        const { answer } = math.forward(model, image, each);
        right[which] += math.best(answer) === labels[i];
      });
      if (i % 20 === 19 || i === images.length - 1) postMessage({ done: i + 1, right });
    });
  };
