// The mathematics of the laboratory: a Vision Transformer over typed arrays, forward and
// backward, named as vitutils names things. It is one function without a surrounding, so
// that its text can go to a worker: new Blob([`(${lab.mathematics})()`]).
//
// A model is {config, parameters}: `config` as in a checkpoint, and `distilled`;
// `parameters` a Float32Array for each of PyTorch's names. Tokens are rows of length D:
// token n of image b is row b N + n. Whatever is computed goes into a *trace*, which the
// views draw and `backward` reads. `broken` names what is to be wrong in the model:
//
//   shuffle       order of the patches, as [2, 0, 1]     erased   Set of patches without ink
//   noPositions, noScaling, oneProjection, wrongAxis, noResidual, noNorm      true or not
//   silenced      Set of "2" (a block), "2.attn", "2.mlp", "2.head.0"
//   classToken    {after, token}: after that many blocks it becomes another image's
globalThis.lab ??= {};
lab.mathematics = () => {
  const EPS = 1e-6; // of LayerNorm
  const upTo = (n) => [...Array(n).keys()];

  // ---- the pieces, each with its gradient ----

  /* Return rows of x (R, I) times a weight (O, I), plus a bias (O). */
  function linear(x, weight, bias) {
    const O = bias.length,
      I = weight.length / O,
      R = x.length / I;
    const y = new Float32Array(R * O);
    for (let r = 0; r < R; r++) {
      const row = r * I;
      let o = 0;
      for (; o + 3 < O; o += 4) {
        // four at a time: x is read once for all of them
        const w0 = o * I,
          w1 = w0 + I,
          w2 = w1 + I,
          w3 = w2 + I;
        let a = bias[o],
          b = bias[o + 1],
          c = bias[o + 2],
          d = bias[o + 3];
        for (let i = 0; i < I; i++) {
          const value = x[row + i];
          a += value * weight[w0 + i];
          b += value * weight[w1 + i];
          c += value * weight[w2 + i];
          d += value * weight[w3 + i];
        }
        y[r * O + o] = a;
        y[r * O + o + 1] = b;
        y[r * O + o + 2] = c;
        y[r * O + o + 3] = d;
      }
      for (; o < O; o++) {
        let sum = bias[o];
        for (let i = 0; i < I; i++) sum += x[row + i] * weight[o * I + i];
        y[r * O + o] = sum;
      }
    }
    return y;
  }

  /* Add to the gradients of weight and bias; return that of x. */
  function linearBackward(dy, x, weight, dWeight, dBias) {
    const O = dBias.length,
      I = weight.length / O,
      R = x.length / I;
    const dx = new Float32Array(x.length),
      sum = new Float64Array(I);
    for (let r = 0; r < R; r++) addRows(sum, weight, dy, r * O, O, 1, dx, r * I);
    for (let o = 0; o < O; o++) {
      addRows(sum, x, dy, o, R, O, dWeight, o * I);
      for (let r = 0; r < R; r++) dBias[o] += dy[r * O + o];
    }
    return dx;
  }

  /* Add to `to` the n rows of a matrix, each times one of n factors, `step` apart. */
  function addRows(sum, rows, factors, start, n, step, to, at) {
    const I = sum.length;
    sum.fill(0);
    let r = 0;
    for (; r + 3 < n; r += 4) {
      const f = start + r * step,
        r0 = r * I,
        r1 = r0 + I,
        r2 = r1 + I,
        r3 = r2 + I;
      const a = factors[f],
        b = factors[f + step];
      const c = factors[f + 2 * step],
        d = factors[f + 3 * step];
      for (let i = 0; i < I; i++)
        sum[i] += a * rows[r0 + i] + b * rows[r1 + i] + c * rows[r2 + i] + d * rows[r3 + i];
    }
    for (; r < n; r++)
      for (let i = 0; i < I; i++) sum[i] += factors[start + r * step] * rows[r * I + i];
    for (let i = 0; i < I; i++) to[at + i] += sum[i];
  }

  /* LayerNorm: each row gets mean 0 and variance 1, then a scale and a shift. */
  function layerNorm(x, weight, bias) {
    const D = weight.length,
      R = x.length / D;
    const y = new Float32Array(x.length),
      normal = new Float32Array(x.length);
    const inverse = new Float32Array(R); // 1 / standard deviation
    for (let r = 0; r < R; r++) {
      let mean = 0,
        variance = 0;
      for (let i = r * D; i < (r + 1) * D; i++) mean += x[i];
      mean /= D;
      for (let i = r * D; i < (r + 1) * D; i++) variance += (x[i] - mean) ** 2;
      inverse[r] = 1 / Math.sqrt(variance / D + EPS);
      for (let d = 0, i = r * D; d < D; d++, i++) {
        normal[i] = (x[i] - mean) * inverse[r];
        y[i] = normal[i] * weight[d] + bias[d];
      }
    }
    return { y, normal, inverse };
  }

  function layerNormBackward(dy, { normal, inverse }, weight, dWeight, dBias) {
    const D = weight.length,
      dx = new Float32Array(dy.length);
    for (let r = 0; r < inverse.length; r++) {
      let mean = 0,
        along = 0; // of the gradient, and its part along the row itself
      for (let d = 0, i = r * D; d < D; d++, i++) {
        const slope = dy[i] * weight[d];
        mean += slope;
        along += slope * normal[i];
        dWeight[d] += dy[i] * normal[i];
        dBias[d] += dy[i];
      }
      mean /= D;
      along /= D;
      for (let d = 0, i = r * D; d < D; d++, i++)
        dx[i] = (dy[i] * weight[d] - mean - normal[i] * along) * inverse[r];
    }
    return dx;
  }

  /* The share of a normal distribution below x, to 1e-7: exact GELU is x times this.

  By Chebyshev's polynomials: Press et al., Numerical Recipes, section 6.2. */
  function below(x) {
    const z = Math.abs(x) * Math.SQRT1_2,
      t = 2 / (2 + z);
    const series =
      -1.26551223 +
      t *
        (1.00002368 +
          t *
            (0.37409196 +
              t *
                (0.09678418 +
                  t *
                    (-0.18628806 +
                      t *
                        (0.27886807 +
                          t *
                            (-1.13520398 +
                              t * (1.48851587 + t * (-0.82215223 + t * 0.17087277))))))));
    const tail = 0.5 * t * Math.exp(-z * z + series);
    return x > 0 ? 1 - tail : tail;
  }

  const gelu = (x) => x.map((value) => value * below(value));

  function geluBackward(dy, x) {
    const dx = new Float32Array(x.length),
      peak = 1 / Math.sqrt(2 * Math.PI);
    for (let i = 0; i < x.length; i++)
      dx[i] = dy[i] * (below(x[i]) + x[i] * peak * Math.exp((-x[i] * x[i]) / 2));
    return dx;
  }

  /* Softmax of n numbers of an array in place, `step` apart. */
  function softmax(numbers, start, n, step = 1) {
    let most = -Infinity,
      sum = 0;
    for (let j = 0; j < n; j++) most = Math.max(most, numbers[start + j * step]);
    for (let j = 0; j < n; j++) {
      const i = start + j * step;
      sum += numbers[i] = Math.exp(numbers[i] - most);
    }
    for (let j = 0; j < n; j++) numbers[start + j * step] /= sum;
  }

  /* Return the place of the largest of n numbers of an array. */
  function best(numbers, start = 0, n = numbers.length) {
    let most = start;
    for (let k = start; k < start + n; k++) if (numbers[k] > numbers[most]) most = k;
    return most - start;
  }

  /* Mix values by how queries fit keys; head h works on features h d_k to (h + 1) d_k.

  qkv: (B N, 3 D), queries, keys and values side by side. */
  function scaledDotProductAttention(qkv, N, D, heads, broken = {}, silent = () => false) {
    const B = qkv.length / (3 * D * N),
      width = D / heads;
    const scale = broken.noScaling ? 1 : 1 / Math.sqrt(width);
    const weights = new Float32Array(B * heads * N * N),
      out = new Float32Array(B * N * D);
    const logits = new Float32Array(weights.length);
    const [k, v] = broken.oneProjection ? [0, 0] : [D, 2 * D]; // where they begin
    for (let b = 0; b < B; b++)
      for (let h = 0; h < heads; h++) {
        const first = (b * heads + h) * N * N,
          column = h * width;
        for (let i = 0; i < N; i++)
          for (let j = 0; j < N; j++) {
            const query = (b * N + i) * 3 * D + column,
              key = (b * N + j) * 3 * D + k + column;
            let sum = 0;
            for (let d = 0; d < width; d++) sum += qkv[query + d] * qkv[key + d];
            weights[first + i * N + j] = logits[first + i * N + j] = sum * scale;
          }
        for (let i = 0; i < N; i++)
          if (broken.wrongAxis)
            softmax(weights, first + i, N, N); // over queries
          else softmax(weights, first + i * N, N);
        if (silent(h)) continue;
        for (let i = 0; i < N; i++)
          for (let j = 0; j < N; j++) {
            const weight = weights[first + i * N + j],
              row = (b * N + i) * D + column;
            const value = (b * N + j) * 3 * D + v + column;
            for (let d = 0; d < width; d++) out[row + d] += weight * qkv[value + d];
          }
      }
    return { logits, weights, out };
  }

  function attentionBackward(dOut, qkv, weights, N, D, heads, broken) {
    const B = qkv.length / (3 * D * N),
      width = D / heads;
    const scale = broken.noScaling ? 1 : 1 / Math.sqrt(width);
    const dqkv = new Float32Array(qkv.length),
      dWeights = new Float64Array(N);
    for (let b = 0; b < B; b++)
      for (let h = 0; h < heads; h++)
        for (let i = 0; i < N; i++) {
          const first = ((b * heads + h) * N + i) * N;
          const row = (b * N + i) * D + h * width,
            query = (b * N + i) * 3 * D + h * width;
          let mean = 0; // of the weights' gradients, weighted: softmax takes it away
          for (let j = 0; j < N; j++) {
            const value = (b * N + j) * 3 * D + 2 * D + h * width,
              weight = weights[first + j];
            let sum = 0;
            for (let d = 0; d < width; d++) {
              sum += dOut[row + d] * qkv[value + d];
              dqkv[value + d] += weight * dOut[row + d];
            }
            dWeights[j] = sum;
            mean += weight * sum;
          }
          for (let j = 0; j < N; j++) {
            const slope = weights[first + j] * (dWeights[j] - mean) * scale;
            const key = (b * N + j) * 3 * D + D + h * width;
            for (let d = 0; d < width; d++) {
              dqkv[query + d] += slope * qkv[key + d];
              dqkv[key + d] += slope * qkv[query + d];
            }
          }
        }
    return dqkv;
  }

  function add(x, y) {
    const sum = new Float32Array(x.length);
    for (let i = 0; i < x.length; i++) sum[i] = x[i] + y[i];
    return sum;
  }

  // ---- the model ----

  /* Cut images (B, C, H, W) into patches, one a row: (B n, C P P). */
  function patches(images, config, broken = {}) {
    const { image_size: side, patch_size: P, in_channels: C } = config;
    const grid = side / P,
      n = grid * grid,
      length = C * P * P;
    const B = images.length / (C * side * side),
      rows = new Float32Array(B * n * length);
    for (let b = 0, to = 0; b < B; b++)
      for (let place = 0; place < n; place++) {
        const patch = broken.shuffle ? broken.shuffle[place] : place;
        const top = Math.floor(patch / grid) * P,
          left = (patch % grid) * P;
        const erased = broken.erased?.has(patch);
        for (let c = 0; c < C; c++)
          for (let y = 0; y < P; y++)
            for (let x = 0; x < P; x++) {
              const pixel = ((b * C + c) * side + top + y) * side + left + x;
              rows[to++] = erased ? broken.blank[c] : images[pixel];
            }
      }
    return rows;
  }

  /* Return tokens (B, N, D): first tokens, patches, and each its position. */
  function embeddings({ config, parameters }, rows, B, broken) {
    const D = config.embed_dim,
      name = (part) => parameters[`embeddings.${part}`];
    const cut = linear(rows, name("proj.weight"), name("proj.bias"));
    const first = config.distilled ? ["class_token", "distill_token"] : ["class_token"];
    const n = cut.length / D / B,
      N = first.length + n,
      x = new Float32Array(B * N * D);
    for (let b = 0; b < B; b++) {
      first.forEach((token, i) => x.set(name(token), (b * N + i) * D));
      x.set(cut.subarray(b * n * D, (b + 1) * n * D), (b * N + first.length) * D);
    }
    if (!broken.noPositions)
      for (let i = 0; i < x.length; i++) x[i] += name("pos_embed")[i % (N * D)];
    return x;
  }

  function normOf(model, x, name, broken) {
    if (broken.noNorm) return { y: x };
    const { [`${name}.weight`]: weight, [`${name}.bias`]: bias } = model.parameters;
    return layerNorm(x, weight, bias);
  }

  function linearOf(model, x, name) {
    const { [`${name}.weight`]: weight, [`${name}.bias`]: bias } = model.parameters;
    return linear(x, weight, bias);
  }

  /* Let the tokens attend, then work on each. */
  function block(model, x, index, N, broken) {
    const { embed_dim: D, num_heads: heads } = model.config;
    const name = `encoder.blocks.${index}`,
      is = (part) => broken.silenced?.has(part);
    const gone = is(`${index}`),
      silent = (head) => is(`${index}.head.${head}`);
    const norm1 = normOf(model, x, `${name}.norm1`, broken);
    const qkv = linearOf(model, norm1.y, `${name}.attn.qkv`);
    const attention = scaledDotProductAttention(qkv, N, D, heads, broken, silent);
    const attended = linearOf(model, attention.out, `${name}.attn.proj`);
    if (gone || is(`${index}.attn`)) attended.fill(0);
    const middle = broken.noResidual ? attended : add(x, attended);
    const norm2 = normOf(model, middle, `${name}.norm2`, broken);
    const hidden = linearOf(model, norm2.y, `${name}.mlp.fc1`),
      bent = gelu(hidden);
    const added = linearOf(model, bent, `${name}.mlp.fc2`);
    if (gone || is(`${index}.mlp`)) added.fill(0);
    const out = broken.noResidual ? added : add(middle, added);
    return { x, norm1, qkv, attention, attended, middle, norm2, hidden, bent, added, out };
  }

  /* Return what the heads say of first tokens (B, D each) after the encoder's norm. */
  function heads(model, x, N, broken = {}) {
    const { embed_dim: D, distilled } = model.config,
      B = x.length / N / D;
    const norms = upTo(distilled ? 2 : 1).map((token) => {
      const rows = new Float32Array(B * D);
      for (let b = 0; b < B; b++)
        rows.set(x.subarray((b * N + token) * D, (b * N + token + 1) * D), b * D);
      return normOf(model, rows, "encoder.norm", broken);
    });
    const logits = norms.map(({ y }, i) => linearOf(model, y, i ? "head_dist" : "head"));
    return { norms, logits, answer: distilled ? average(logits, B) : logits[0] };
  }

  /* The logarithm of the mean of two softmax, as DeiT answers, of B images. */
  function average(logits, B) {
    const both = logits.map((each) => each.slice()),
      K = both[0].length / B;
    for (const each of both) for (let b = 0; b < each.length; b += K) softmax(each, b, K);
    return both[0].map((p, i) => Math.log((p + both[1][i]) / 2));
  }

  /* Send normalized images (B, C, H, W) through a model; return the trace. */
  function forward(model, images, broken = {}) {
    const { config } = model,
      D = config.embed_dim;
    const B = images.length / (config.in_channels * config.image_size ** 2);
    const rows = patches(images, config, broken);
    const embedded = embeddings(model, rows, B, broken),
      N = embedded.length / B / D;
    const blocks = [];
    let x = transplant(embedded, 0, D, broken);
    for (let i = 0; i < config.depth; i++) {
      blocks.push(block(model, x, i, N, broken));
      x = transplant(blocks[i].out, i + 1, D, broken);
    }
    return { B, N, rows, embedded, blocks, last: x, ...heads(model, x, N, broken), broken };
  }

  /* Put another image's class token in place of this one's, for a single image. */
  function transplant(x, after, D, { classToken }) {
    if (classToken?.after === after) x.set(classToken.token.subarray(0, D));
    return x;
  }

  /* What the head would say after the embeddings and after each block. */
  function lens(model, trace) {
    return [trace.embedded, ...trace.blocks.map(({ out }) => out)].map((x) =>
      heads(model, x, trace.N, trace.broken),
    );
  }

  // ---- learning ----

  /* Return the mean cross-entropy of logits (B, K), and its gradient. */
  function crossEntropy(logits, labels) {
    const B = labels.length,
      K = logits.length / B,
      slopes = logits.slice();
    let loss = 0;
    for (let b = 0; b < B; b++) {
      softmax(slopes, b * K, K);
      loss -= Math.log(Math.max(slopes[b * K + labels[b]], 1e-30)) / B;
      slopes[b * K + labels[b]] -= 1;
      for (let k = 0; k < K; k++) slopes[b * K + k] /= B;
    }
    return { loss, slopes };
  }

  /* Half of the loss from the labels, half from the answers of a teacher, which the head
  of the distillation token learns: Touvron et al. (2021), equation 3. */
  function hardDistillation([logits, distillLogits], labels, answers) {
    const parts = [crossEntropy(logits, labels), crossEntropy(distillLogits, answers)];
    return {
      loss: (parts[0].loss + parts[1].loss) / 2,
      slopes: parts.map(({ slopes }) => slopes.map((slope) => slope / 2)),
    };
  }

  /* A teacher that is no Transformer: one linear layer from the pixels to the classes. */
  const newTeacher = (length, classes) => ({
    weight: new Float32Array(classes * length),
    bias: new Float32Array(classes),
  });
  const teach = ({ weight, bias }, images) => linear(images, weight, bias);

  /* Return the loss of a teacher and the gradients of its parameters. */
  function teacherGradients(teacher, images, labels) {
    const { loss, slopes } = crossEntropy(teach(teacher, images), labels);
    const gradients = newTeacher(images.length / labels.length, teacher.bias.length);
    linearBackward(slopes, images, teacher.weight, gradients.weight, gradients.bias);
    return { loss, gradients };
  }

  /* Return the gradient of every parameter, given those of each head's logits. */
  function backward(model, trace, slopes) {
    const { config, parameters: p } = model,
      { B, N } = trace,
      D = config.embed_dim;
    const gradients = {};
    for (const name in p) gradients[name] = new Float32Array(p[name].length);
    const back = (dy, x, name) =>
      linearBackward(
        dy,
        x,
        p[`${name}.weight`],
        gradients[`${name}.weight`],
        gradients[`${name}.bias`],
      );
    const backNorm = (dy, norm, name) =>
      layerNormBackward(
        dy,
        norm,
        p[`${name}.weight`],
        gradients[`${name}.weight`],
        gradients[`${name}.bias`],
      );

    let dx = new Float32Array(B * N * D);
    slopes.forEach((slope, token) => {
      const dRows = backNorm(
        back(slope, trace.norms[token].y, token ? "head_dist" : "head"),
        trace.norms[token],
        "encoder.norm",
      );
      for (let b = 0; b < B; b++) dx.set(dRows.subarray(b * D, (b + 1) * D), (b * N + token) * D);
    });
    for (let i = config.depth - 1; i >= 0; i--) {
      const name = `encoder.blocks.${i}`,
        part = trace.blocks[i];
      const dBent = back(dx, part.bent, `${name}.mlp.fc2`);
      const dNorm2 = back(geluBackward(dBent, part.hidden), part.norm2.y, `${name}.mlp.fc1`);
      dx = add(dx, backNorm(dNorm2, part.norm2, `${name}.norm2`)); // past the MLP, through it
      const dOut = back(dx, part.attention.out, `${name}.attn.proj`);
      const dqkv = attentionBackward(
        dOut,
        part.qkv,
        part.attention.weights,
        N,
        D,
        config.num_heads,
        trace.broken,
      );
      const dNorm1 = back(dqkv, part.norm1.y, `${name}.attn.qkv`);
      dx = add(dx, backNorm(dNorm1, part.norm1, `${name}.norm1`));
    }
    const first = config.distilled ? ["class_token", "distill_token"] : ["class_token"];
    const n = N - first.length,
      dPatches = new Float32Array(B * n * D);
    for (let b = 0; b < B; b++) {
      const start = (b * N + first.length) * D;
      dPatches.set(dx.subarray(start, start + n * D), b * n * D);
      first.forEach((token, i) => {
        const sum = gradients[`embeddings.${token}`];
        for (let d = 0; d < D; d++) sum[d] += dx[(b * N + i) * D + d];
      });
    }
    if (!trace.broken.noPositions) {
      const sum = gradients["embeddings.pos_embed"];
      for (let i = 0; i < dx.length; i++) sum[i % (N * D)] += dx[i];
    }
    back(dPatches, trace.rows, "embeddings.proj");
    return gradients;
  }

  /* Scale gradients so that their norm, over all of them, is at most 1. */
  function clip(gradients, most = 1) {
    let sum = 0;
    for (const name in gradients) for (const slope of gradients[name]) sum += slope * slope;
    const factor = Math.min(1, most / (Math.sqrt(sum) + 1e-6));
    if (factor < 1)
      for (const name in gradients) {
        const slopes = gradients[name];
        for (let i = 0; i < slopes.length; i++) slopes[i] *= factor;
      }
    return Math.sqrt(sum);
  }

  /* AdamW as PyTorch does it; only weights decay, no biases, norms and tokens. */
  function adamW(parameters, { decay = 0.05, betas = [0.9, 0.999], eps = 1e-8 } = {}) {
    const moments = {},
      kept = /bias$|norm\d?\.weight$|_token$|pos_embed$/;
    for (const name in parameters)
      moments[name] = [0, 1].map(() => new Float32Array(parameters[name].length));
    let steps = 0;
    return (gradients, rate) => {
      steps += 1;
      const [full1, full2] = betas.map((beta) => 1 - beta ** steps);
      for (const name in parameters) {
        const values = parameters[name],
          slopes = gradients[name];
        const [mean, square] = moments[name],
          keep = kept.test(name) ? 1 : 1 - rate * decay;
        for (let i = 0; i < values.length; i++) {
          mean[i] += (1 - betas[0]) * (slopes[i] - mean[i]);
          square[i] += (1 - betas[1]) * (slopes[i] * slopes[i] - square[i]);
          values[i] =
            values[i] * keep - (rate * mean[i]) / full1 / (Math.sqrt(square[i] / full2) + eps);
        }
      }
    };
  }

  /* The rate at a step, as a share of its peak: it climbs, then falls along a cosine.

  `stretch` is 1; at 1.2 the cosine climbs again, which is chapter 8's pitfall. */
  function warmupCosine(step, steps, warmup, stretch = 1) {
    if (step < warmup) return (step + 1) / (warmup + 1);
    return (1 + Math.cos((stretch * Math.PI * (step - warmup)) / (steps - warmup))) / 2;
  }

  /* Random numbers in [0, 1), the same for the same seed (mulberry32). */
  function random(seed) {
    return () => {
      seed = (seed + 0x6d2b79f5) | 0;
      let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
      t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
      return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
    };
  }

  /* Return 0 to n - 1 in a random order. */
  function shuffled(n, draw) {
    const order = upTo(n);
    for (let i = n - 1; i > 0; i--) {
      const j = Math.floor(draw() * (i + 1));
      [order[i], order[j]] = [order[j], order[i]];
    }
    return order;
  }

  /* Return a new model: Xavier's weights, zero biases, small tokens and positions. */
  function newModel(config, seed) {
    const { embed_dim: D, mlp_dim: M, patch_size: P, image_size, num_classes: K } = config;
    const draw = random(seed),
      length = config.in_channels * P * P;
    const N = (image_size / P) ** 2 + (config.distilled ? 2 : 1),
      parameters = {};
    const even = (n, most) => Float32Array.from({ length: n }, () => (2 * draw() - 1) * most);
    const normal = (n) =>
      Float32Array.from(
        { length: n },
        () => 0.02 * Math.sqrt(-2 * Math.log(1 - draw())) * Math.cos(2 * Math.PI * draw()),
      );
    const set = (name, weight, bias) => {
      parameters[`${name}.weight`] = weight;
      parameters[`${name}.bias`] = bias;
    };
    const xavier = (name, O, I, parts = 1) =>
      set(name, even(O * I, Math.sqrt(6 / (O / parts + I))), new Float32Array(O));
    const norm = (name) => set(name, new Float32Array(D).fill(1), new Float32Array(D));
    parameters["embeddings.class_token"] = normal(D);
    if (config.distilled) parameters["embeddings.distill_token"] = normal(D);
    parameters["embeddings.pos_embed"] = normal(N * D);
    set("embeddings.proj", even(D * length, length ** -0.5), even(D, length ** -0.5));
    for (let i = 0; i < config.depth; i++) {
      const name = `encoder.blocks.${i}`;
      norm(`${name}.norm1`);
      xavier(`${name}.attn.qkv`, 3 * D, D, 3);
      xavier(`${name}.attn.proj`, D, D);
      norm(`${name}.norm2`);
      xavier(`${name}.mlp.fc1`, M, D);
      xavier(`${name}.mlp.fc2`, D, M);
    }
    norm("encoder.norm");
    set("head", normal(K * D), new Float32Array(K));
    if (config.distilled) set("head_dist", normal(K * D), new Float32Array(K));
    return { config, parameters };
  }

  return {
    forward,
    backward,
    lens,
    crossEntropy,
    hardDistillation,
    newTeacher,
    teach,
    teacherGradients,
    clip,
    adamW,
    warmupCosine,
    newModel,
    softmax,
    best,
    random,
    shuffled,
  };
};
