// One slider or two, and the image that belongs to their position. The model (widgets.py) holds the positions: moving a
// slider only sets them there, and any change to them, made here or in Python, redraws.
function render({ model, el }) {
  el.classList.add("ddim-slider");
  const labels = model.get("labels");
  const columns = labels.length > 1 ? labels[1].length : 1;
  const controls = document.createElement("div");
  const image = document.createElement("img");
  if (model.get("width")) {
    // nearest neighbour keeps pixels square where an image is enlarged, and breaks letters where it is made narrower
    image.style.cssText = `width: ${model.get("width")}px; image-rendering: pixelated`;
  }

  const sliders = model.get("names").map((name, k) => {
    const key = ["index", "second_index"][k];
    const id = `ddim-slider-${Math.random().toString(36).slice(2)}`;
    const label = Object.assign(document.createElement("label"), { htmlFor: id, textContent: name });
    const input = Object.assign(document.createElement("input"), { id, type: "range", min: 0, max: labels[k].length - 1 });
    // a screen reader reads out the slider's own value; it need not read this text, too
    const output = Object.assign(document.createElement("output"), { ariaLive: "off" });
    output.htmlFor = id;
    output.style.minWidth = `${Math.max(...labels[k].map((text) => text.length))}ch`; // or the slider grows as it moves
    input.dataset.lmSuppressShortcuts = "true"; // JupyterLab would take the arrow keys for its own
    input.addEventListener("input", () => {
      model.set(key, Number(input.value));
      model.save_changes();
    });
    controls.append(label, input, output);
    return { key, input, output, labels: labels[k] };
  });

  function draw() {
    for (const { key, input, output, labels } of sliders) {
      input.value = model.get(key);
      input.ariaValueText = output.value = labels[model.get(key)];
    }
    const place = model.get("index") * columns + model.get("second_index");
    image.src = `data:image/webp;base64,${model.get("frames")[place]}`;
    image.alt = model.get("alts")[place];
  }

  for (const { key } of sliders) model.on(`change:${key}`, draw);
  draw();
  el.replaceChildren(controls, image);
}

export default { render };
