// Loaded before every other script of the page.

// ipywidgets still asks MathJax 2 (MathJax.Hub.Queue) to typeset labels. MathJax 3 has no Hub, and replaces the object
// that stands at window.MathJax when it starts; so whatever is put there is given a Hub that does nothing.
(() => {
  let mathjax;
  Object.defineProperty(window, "MathJax", {
    configurable: true,
    enumerable: true,
    get: () => mathjax,
    set(value) {
      if (value && !value.Hub) value.Hub = { Queue() {} };
      mathjax = value;
    },
  });
})();
