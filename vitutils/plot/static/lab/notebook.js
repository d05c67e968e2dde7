// A laboratory in a notebook: its own element, model and images in place of the page's.
globalThis.lab ??= {};

lab.own = (root, { book, model, images }) => {
  const read = ({ header, bytes }) =>
    lab
      .inflate(Uint8Array.from(atob(bytes), (each) => each.charCodeAt(0)))
      .then((bytes) => ({ header, bytes }));
  Object.assign(lab.files, { model: read(model), images: read(images) });
  Object.assign(lab, { root, book, models: [["model", "model", "images"]] });
  root.id ||= `laboratory-${Math.random().toString(36).slice(2)}`;
  if (document.documentElement.dataset.theme) return; // the book's page knows
  // VS Code takes what comes through to the window for its notebook: Enter to edit the
  // cell, arrows to go to another, letters for more.
  root.addEventListener("keydown", (event) => {
    const { key, ctrlKey, altKey, metaKey } = event;
    if (!ctrlKey && !altKey && !metaKey && !/^(Escape|F\d+)$/.test(key)) event.stopPropagation();
  });
  const is = (each) => getComputedStyle(each).backgroundColor;
  let ground = root;
  while (ground && /, 0\)$/.test(is(ground))) ground = ground.parentElement;
  if (ground) root.style.setProperty("--lab-ground", is(ground));
  const [red, green, blue] = getComputedStyle(root)
    .color.match(/[\d.]+/g)
    .map(Number);
  root.style.colorScheme = red + green + blue > 380 ? "dark" : "light"; // by its text
};
