// The sampler of ddim_core in JavaScript, without the network: noise, grids of times, the step, the walks. The names are
// those of ddim_core/seeds.py, schedule.py and sample.py, and so are the numbers; tests/book/test_try_it.py compares them.
// A batch is a Float32Array of n images, one after the other; `predict(x, t)` resolves to the noise in it.
(() => {
  const SIGMA_HAT = "sigma-hat";

  // --- noise: seeds.Threefry -------------------------------------------------------------------------------------------

  const ROTATIONS = [13, 15, 26, 6, 17, 29, 16, 24];

  // Threefry-2x32 of 20 rounds; words are 32 bits, written as the signed integers that JavaScript's operators give
  function threefry(key, x, y) {
    const keys = [key[0] | 0, key[1] | 0, key[0] ^ key[1] ^ 0x1bd11bda];
    x = (x + keys[0]) | 0;
    y = (y + keys[1]) | 0;
    for (let round = 0; round < 20; round++) {
      const left = ROTATIONS[round % 8];
      x = (x + y) | 0;
      y = ((y << left) | (y >>> (32 - left))) ^ x;
      if (round % 4 === 3) {
        const i = (round + 1) / 4;
        x = (x + keys[i % 3]) | 0;
        y = (y + keys[(i + 1) % 3] + i) | 0;
      }
    }
    return [x >>> 0, y >>> 0];
  }

  class Threefry {
    constructor(seed, number = 0) {
      this.key = [seed >>> 0, number >>> 0];
      this.draws = 0;
    }

    // the next draw, written into `out`
    normal(out) {
      for (let k = 0; 2 * k < out.length; k++) {
        const [a, b] = threefry(this.key, k, this.draws);
        const radius = Math.sqrt(-2 * Math.log((a + 0.5) / 2 ** 32));
        const angle = (2 * Math.PI * b) / 2 ** 32;
        out[2 * k] = radius * Math.cos(angle);
        if (2 * k + 1 < out.length) out[2 * k + 1] = radius * Math.sin(angle);
      }
      this.draws++;
      return out;
    }
  }

  // a function that draws noise for the images first, ..., first + n - 1 under a seed, `size` numbers each
  function imageNoise(seed, n, size, first = 0) {
    const generators = Array.from({ length: n }, (_, i) => new Threefry(seed, first + i));
    return () => {
      const noise = new Float32Array(n * size);
      generators.forEach((g, i) => g.normal(noise.subarray(i * size, (i + 1) * size)));
      return noise;
    };
  }

  // --- times: Schedule ---------------------------------------------------------------------------------------------------

  class Schedule {
    constructor({ T, beta_1, beta_T }) {
      this.T = T;
      this.alpha = new Float64Array(T + 1).fill(1);
      for (let t = 1; t <= T; t++) {
        const beta = T > 1 ? beta_1 + ((beta_T - beta_1) * (t - 1)) / (T - 1) : beta_1;
        this.alpha[t] = this.alpha[t - 1] * (1 - beta);
      }
    }

    // 0 = tau_0 < ... < tau_S = T, by the number of steps or by the stride
    timesteps({ steps, every, spacing = "uniform" }) {
      const T = this.T;
      if ((steps === undefined) === (every === undefined)) throw new RangeError("give either steps or every");
      if (every !== undefined) {
        whole(every, "every", 1, T);
        if (spacing !== "uniform") throw new RangeError("every makes a uniform grid");
        return [...Array.from({ length: Math.ceil(T / every) }, (_, i) => i * every), T];
      }
      const S = whole(steps, "steps", 1, T);
      const entries = (of) => Array.from({ length: S + 1 }, (_, i) => of(i));
      if (spacing === "uniform") return entries((i) => Math.floor((2 * i * T + S) / (2 * S)));
      if (spacing === "quadratic") {
        return entries((i) => Math.max(i, Math.floor((2 * i * i * T + S * S) / (2 * S * S))));
      }
      if (spacing === "logsnr") return this.evenInLogSnr(S);
      throw new RangeError(`spacing must be uniform, quadratic or logsnr, got ${spacing}`);
    }

    evenInLogSnr(S) {
      const T = this.T;
      const level = (t) => -Math.log(this.alpha[t] / (1 - this.alpha[t])) / 2; // ascends
      const stride = S > 1 ? (level(T) - level(1)) / (S - 1) : 0;
      const tau = [0];
      for (let i = 0, t = 1; i < S; i++) {
        const wanted = i === S - 1 && S > 1 ? level(T) : level(1) + i * stride;
        while (t < T - 1 && level(t + 1) <= wanted) t++;
        tau.push(Math.round(Math.min(t + (wanted - level(t)) / (level(t + 1) - level(t)), T)));
      }
      for (let i = 1; i <= S; i++) tau[i] = Math.max(tau[i], tau[i - 1] + 1);
      tau[S] = T;
      for (let i = S - 1; i > 0; i--) tau[i] = Math.min(tau[i], tau[i + 1] - 1);
      return tau;
    }

    // the same number of even strides, down from a lower time: 0 < ... < t
    from(t, steps) {
      const S = Math.min(steps, t);
      return Array.from({ length: S + 1 }, (_, i) => Math.floor((2 * i * t + S) / (2 * S)));
    }
  }

  function whole(value, name, lowest, highest) {
    if (!Number.isInteger(value) || value < lowest || value > highest) {
      throw new RangeError(`${name} must be a whole number from ${lowest} to ${highest}, got ${value}`);
    }
    return value;
  }

  // --- equation 1 and the step -----------------------------------------------------------------------------------------

  const blend = (a, x, b, y) => x.map((value, i) => a * value + b * y[i]);

  // x_t = sqrt(alpha_t) x_0 + sqrt(1 - alpha_t) eps
  function addNoise(x0, t, eps, schedule) {
    return blend(Math.sqrt(schedule.alpha[t]), x0, Math.sqrt(1 - schedule.alpha[t]), eps);
  }

  function predictX0(xt, t, eps, schedule) {
    const signal = Math.sqrt(schedule.alpha[t]);
    return blend(1 / signal, xt, -Math.sqrt(1 - schedule.alpha[t]) / signal, eps);
  }

  function checkEta(eta) {
    if (eta !== SIGMA_HAT && !(typeof eta === "number" && eta >= 0 && eta <= 1)) {
      throw new RangeError(`eta must lie in [0, 1] or be ${SIGMA_HAT}, got ${eta}`);
    }
    return eta;
  }

  // from t to s < t (DDIM, eq. 12 and 16): [x_s, x0_hat]
  function ddimStep(xt, eps, t, s, schedule, { eta = 0, noise = null, clip = false } = {}) {
    const { alpha } = schedule;
    const x0 = predictX0(xt, t, eps, schedule);
    if (clip) {
      x0.forEach((value, i) => (x0[i] = Math.min(1, Math.max(-1, value))));
      eps = blend(1 / Math.sqrt(1 - alpha[t]), xt, -Math.sqrt(alpha[t] / (1 - alpha[t])), x0);
    }
    const wide = Math.sqrt(1 - alpha[t] / alpha[s]);
    const sigma = (eta === SIGMA_HAT ? 1 : eta) * Math.sqrt((1 - alpha[s]) / (1 - alpha[t])) * wide;
    let xs = blend(Math.sqrt(alpha[s]), x0, Math.sqrt(Math.max(1 - alpha[s] - sigma ** 2, 0)), eps);
    if (s > 0 && sigma > 0) xs = blend(1, xs, eta === SIGMA_HAT ? wide : sigma, noise);
    return [xs, x0];
  }

  // --- walks: each yields a state after every call of the network ------------------------------------------------------

  // down a grid: {t, s, call, calls, xt, x0, xs}, where xs is the state that the step leads to
  async function* sample(predict, schedule, xT, tau, { eta = 0, draw = null, clip = false } = {}) {
    checkEta(eta);
    const calls = tau.length - 1;
    let xt = xT;
    for (let call = 1; call <= calls; call++) {
      const [t, s] = [tau[calls - call + 1], tau[calls - call]];
      const eps = await predict(xt, t);
      const [xs, x0] = ddimStep(xt, eps, t, s, schedule, { eta, clip, noise: eta !== 0 && s > 0 ? draw() : null });
      yield { t, s, call, calls, xt, x0, xs };
      xt = xs;
    }
  }

  // up a grid, the same step the other way (DDIM, eq. 13); at s = 0 the network is told 1, the lowest that it knows
  async function* encode(predict, schedule, x0, tau) {
    const calls = tau.length - 1;
    let x = x0;
    for (let call = 1; call <= calls; call++) {
      const [s, t] = [tau[call - 1], tau[call]];
      const eps = await predict(x, Math.max(s, 1));
      const guess = predictX0(x, s, eps, schedule);
      const up = addNoise(guess, t, eps, schedule);
      yield { t: s, s: t, call, calls, xt: x, x0: guess, xs: up };
      x = up;
    }
  }

  // fill in what `known` (1 or 0 for each number) leaves open, going back up visits - 1 times at each step but the last
  async function* fill(predict, schedule, y, known, tau, { draw, visits = 1 }) {
    const { alpha } = schedule;
    const steps = tau.length - 1;
    const calls = (steps - 1) * visits + 1;
    let x = draw();
    let call = 0;
    for (let i = steps; i > 0; i--) {
      const [t, s] = [tau[i], tau[i - 1]];
      for (let visit = 0; visit < (s > 0 ? visits : 1); visit++) {
        if (visit > 0) x = blend(Math.sqrt(alpha[t] / alpha[s]), x, Math.sqrt(1 - alpha[t] / alpha[s]), draw());
        const eps = await predict(x, t);
        const [step, x0] = ddimStep(x, eps, t, s, schedule);
        const truth = addNoise(y, s, draw(), schedule);
        const xs = step.map((value, k) => (known[k] ? truth[k] : value));
        yield { t, s, call: ++call, calls, xt: x, x0, xs };
        x = xs;
      }
    }
  }

  // --- between two starting points ---------------------------------------------------------------------------------------

  // on the straight line from a to b, for each weight
  function lerp(a, b, weights) {
    return joined(weights.map((w) => blend(1 - w, a, w, b)));
  }

  // on the great circle (DDIM, eq. 67)
  function slerp(a, b, weights) {
    let [aa, ab, bb] = [0, 0, 0];
    a.forEach((value, i) => {
      aa += value * value;
      ab += value * b[i];
      bb += b[i] * b[i];
    });
    const theta = Math.acos(Math.min(1, Math.max(-1, ab / Math.sqrt(aa * bb))));
    if (theta < 1e-6) return lerp(a, b, weights);
    const sine = Math.sin(theta);
    return joined(weights.map((w) => blend(Math.sin((1 - w) * theta) / sine, a, Math.sin(w * theta) / sine, b)));
  }

  function joined(parts) {
    const all = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0));
    parts.reduce((at, part) => (all.set(part, at), at + part.length), 0);
    return all;
  }

  self.ddimCore = {
    SIGMA_HAT, Schedule, Threefry, addNoise, checkEta, ddimStep, encode, fill, imageNoise, joined, lerp, sample, slerp,
    threefry, whole,
  };
})();
