// Loaded before every other script of the page: each of these must be in place when the theme or a library looks for it.

// FontAwesome swaps <i> icons for <svg> wherever they appear, and so breaks the widgets that own those icons (Play above all).
// Let it do its work once, on the theme's own icons, and not watch the page afterwards.
window.FontAwesomeConfig = { observeMutations: false };

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
