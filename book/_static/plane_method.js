// The exact denoiser of a few points, and DDIM from noise to them: what plane_live.js draws.
//
// For tests and the curious, with nested arrays as in Python:
//   ddimPlane.guess({points, x, t})                                          E[x_0 | x_t], as DatasetDenoiser.x0
//   ddimPlane.sample({points, start, steps, eta, order, noise | seed})       {times, states}, as ddim_core.sample
//   ddimPlane.normal(seed, count)                                            the noise of this page
(() => {
  "use strict";

  // In float64, with the letters of the book. Points lie flat in one array, d numbers each.
  const T = 1000;
  const alpha = new Float64Array(T + 1).fill(1); // alpha_t = (1 - beta_1) ... (1 - beta_t)
  for (let t = 1; t <= T; t++) alpha[t] = alpha[t - 1] * (1 - (1e-4 + ((t - 1) / (T - 1)) * (0.02 - 1e-4)));
  const logSNR = (t) => Math.log(alpha[t] / (1 - alpha[t])) / 2;
  const downwards = (S) => Array.from({ length: S + 1 }, (_, i) => Math.floor((2 * (S - i) * T + S) / (2 * S)));

  // The mean of the y, weighted by exp(-|x - sqrt(alpha_t) y|^2 / (2 (1 - alpha_t))). The exponents reach thousands: the
  // largest is taken off before exp, and |x|^2, the same for all, is left out. With one number per point the second is 0.
  function guess(y, x, d, t) {
    const signal = Math.sqrt(alpha[t]), variance = 1 - alpha[t], N = y.length / d, mean = new Float64Array(x.length);
    const [u, v] = [0, 1].map((c) => Float64Array.from({ length: N }, (_, i) => (c < d ? y[i * d + c] : 0)));
    const own = u.map((_, i) => (alpha[t] * (u[i] ** 2 + v[i] ** 2)) / 2 / variance), exponent = new Float64Array(N);
    for (let j = 0; j < x.length; j += d) {
      const along = (signal * x[j]) / variance, across = d === 2 ? (signal * x[j + 1]) / variance : 0;
      let largest = -Infinity, total = 0, meanU = 0, meanV = 0;
      for (let i = 0; i < N; i++) {
        exponent[i] = along * u[i] + across * v[i] - own[i];
        if (exponent[i] > largest) largest = exponent[i];
      }
      for (let i = 0; i < N; i++) {
        if (exponent[i] < largest - 35) continue; // e^-35 is nothing beside the 1 of the largest
        const w = Math.exp(exponent[i] - largest);
        total += w;
        meanU += w * u[i];
        meanV += w * v[i];
      }
      mean[j] = meanU / total;
      if (d === 2) mean[j + 1] = meanV / total;
    }
    return mean;
  }

  // All states from x_T down to x_0. z(k) is the fresh noise of step k, asked for only if eta > 0.
  function walk(y, x, d, { S, eta, order, z }) {
    const times = downwards(S), states = [x];
    let before = null; // the guess one step earlier, for order 2
    for (let k = 0; k < S; k++) {
      const t = times[k], s = times[k + 1], a = alpha[t], b = alpha[s];
      const x0 = guess(y, x, d, t), next = new Float64Array(x.length);
      const sigma = eta * Math.sqrt((1 - b) / (1 - a)) * Math.sqrt(1 - a / b);
      const kept = Math.sqrt(Math.max(1 - b - sigma * sigma, 0)), fresh = sigma > 0 && s > 0 ? z(k) : null;
      const second = order === 2 && before && s > 0;
      const ahead = second ? (logSNR(s) - logSNR(t)) / (logSNR(t) - logSNR(times[k - 1])) / 2 : 0;
      for (let i = 0; i < x.length; i++) {
        const middle = second ? x0[i] + ahead * (x0[i] - before[i]) : x0[i];
        const eps = (x[i] - Math.sqrt(a) * middle) / Math.sqrt(1 - a);
        next[i] = Math.sqrt(b) * middle + kept * eps + (fresh ? sigma * fresh[i] : 0);
      }
      before = x0;
      states.push((x = next));
    }
    return { times, states };
  }

  // Standard normal numbers from a seed: sfc32 (three words and a counter, twelve rounds to mix the seed in), two of its
  // 32-bit numbers at a time through Box-Muller. The same seed gives the same numbers in every browser.
  function normal(seed, count) {
    let a = seed | 0, b = 0x9e3779b9 | 0, c = 0x243f6a88, counter = 1;
    const word = () => {
      const sum = (((a + b) | 0) + counter) | 0;
      counter = (counter + 1) | 0;
      a = b ^ (b >>> 9);
      b = (c + (c << 3)) | 0;
      c = (((c << 21) | (c >>> 11)) + sum) | 0;
      return ((sum >>> 0) + 0.5) / 2 ** 32; // in (0, 1), ends left out: log 0 is not wanted
    };
    for (let i = 0; i < 12; i++) word();
    const out = new Float64Array(count + (count % 2));
    for (let i = 0; i < out.length; i += 2) {
      const radius = Math.sqrt(-2 * Math.log(word())), angle = 2 * Math.PI * word();
      out[i] = radius * Math.cos(angle);
      out[i + 1] = radius * Math.sin(angle);
    }
    return out.subarray(0, count);
  }

  const flat = (rows) => Float64Array.from(rows.flat());
  const rows = (x, d) => Array.from({ length: x.length / d }, (_, j) => Array.from(x.subarray(j * d, j * d + d)));
  window.ddimPlane = {
    live: [], // the drawings of the page, with what each holds and shows
    method: { T, alpha, guess, walk, normal, flat },
    normal: (seed, count) => Array.from(normal(seed, count)),
    guess: ({ points, x, t }) => rows(guess(flat(points), flat(x), points[0].length, t), points[0].length),
    sample({ points, start, steps = 50, eta = 0, order = 1, noise, seed = 0 }) {
      if (!(steps >= 1 && steps <= T)) throw new RangeError(`steps must lie in 1..${T}, got ${steps}`);
      if (order === 2 && eta !== 0) throw new RangeError("order 2 follows the path without noise: it needs eta = 0");
      const d = points[0].length, size = start.length * d, drawn = noise ? flat(noise.flat()) : normal(seed, steps * size);
      const z = (k) => drawn.subarray(k * size, (k + 1) * size);
      const { times, states } = walk(flat(points), flat(start), d, { S: steps, eta, order, z });
      return { times, states: states.map((x) => rows(x, d)) };
    },
  };
})();
