/* What the pages do beyond the theme: fades where a box goes on, code that wraps on a
   phone, panels that stand in rows there, graphs that are drawn into the page, pictures
   that open large, paper, and a search that shows words. */

"use strict";

const WIDE =
  "pre, mjx-container, .pst-scrollable-table-container, .output, .graph > div, " +
  "a.image-reference";
const GRAPHS = "article .text_html > div > img[src^='data:image/svg+xml;base64']";
const THEME = document.documentElement.dataset;

// ---- fades: a box that scrolls says where it goes on, and a key can scroll it ----

function fade(box) {
  const right = box.scrollWidth - box.clientWidth - box.scrollLeft;
  const below = box.scrollHeight - box.clientHeight - box.scrollTop;
  const scrolls = box.scrollWidth > box.clientWidth + 1 && !fitsInline(box);
  const graph = box.parentElement.matches(".graph");
  box.classList.toggle("more-left", scrolls && box.scrollLeft > 1);
  box.classList.toggle("more-right", scrolls && right > 1);
  box.classList.toggle("more-top", graph && box.scrollTop > 1);
  box.classList.toggle("more-bottom", graph && below > 1);
  box.classList.toggle("more", /more-/.test(box.className));
  if (box.matches("figure > a")) rail(box, scrolls);
  if (scrolls && !box.closest("a, button, [tabindex]")) box.tabIndex = 0;
}

/* Below a figure that pans a rail says so, and how much of it is seen where (book.css). */
function rail(box, pans) {
  const { style, classList } = box.parentElement;
  const rest = Math.max(box.scrollWidth - box.clientWidth, 1);
  classList.toggle("pans", pans);
  style.setProperty("--seen", `${(100 * box.clientWidth) / box.scrollWidth}%`);
  style.setProperty("--at", `${(100 * box.scrollLeft) / rest}%`);
}

/* A formula in a line overhangs its box by a hair, and scrolls only as wide as the line. */
function fitsInline(box) {
  const line = box.parentElement.getBoundingClientRect().width;
  const inline = box.matches("mjx-container:not([display])");
  return inline && box.getBoundingClientRect().width < line - 1;
}

const sizes = new ResizeObserver((entries) => entries.forEach((e) => fade(e.target)));

function watch() {
  for (const box of document.querySelectorAll(`article :is(${WIDE})`)) {
    fade(box);
    sizes.observe(box);
  }
}

// ---- code on a phone: a line that wraps goes on below its own indent (book.css) ----

const PHONE = matchMedia("(max-width: 600px)");
const CODE = "article div:not(.output) > div.highlight > pre:not(:has(> .line))";

/* Pygments closes its spans at the end of each line. The indent leaves the flow, for a
   line would break there; that of a docstring is inside its span, and stays. A
   chain of calls may break before a dot, rather than in a word. */
function hang(code) {
  const texts = code.textContent.split("\n");
  const lines = code.innerHTML.split("\n").map((line, i) => {
    const [indent, outside] = [texts[i], line].map((part) => part.search(/[^ ]|$/));
    const style = `--indent: ${indent}ch; --inside: ${indent - outside}ch`;
    const taken = line
      .replace(/^ +/, '<span class="indent">$&</span>')
      .replace(/(?<=[)\]]<\/span>)<span class="o">\.</g, "<wbr>$&");
    return `<span class="line" style="${style}">${taken}\n</span>`;
  });
  code.innerHTML = (texts.at(-1) ? lines : lines.slice(0, -1)).join("");
}

/* Commands wrap at any width, and never within an option. */
function hangCommand(code) {
  code.innerHTML = code.innerHTML.replace(
    /(?<=[\s>])[\w.]*-[\w-]+/g,
    '<span class="option">$&</span>',
  );
  hang(code);
}

function wrap() {
  if (PHONE.matches) document.querySelectorAll(CODE).forEach(hang);
}

// ---- panels on a phone: a figure that would pan stands in rows (_ext/folding.py) ----

const LEAST = 0.75; // of its own size: text of 10 px

function stack(image) {
  const figure = image.closest("figure");
  const link = image.parentElement;
  const [own, room] = [parseFloat(image.style.width), figure.clientWidth];
  const known = LEAST * own > room ? JSON.parse(image.dataset.rows) : [];
  const layout = known.find(([width]) => LEAST * width <= room);
  link.querySelector(".rows")?.remove();
  figure.classList.toggle("stacked", Boolean(layout));
  if (!layout) return;
  const [width, rows] = layout;
  const scale = Math.min(1, room / width);
  const all = document.createElement("span");
  all.className = "rows";
  all.setAttribute("aria-hidden", "true"); // the picture itself is still there to be read
  all.style.width = `${scale * width}px`;
  for (const row of rows) {
    const line = document.createElement("span");
    for (const [left, top, wide, high] of row) {
      const piece = document.createElement("span");
      const copy = new Image();
      piece.style.cssText = `width: ${scale * wide}px; height: ${scale * high}px`;
      copy.style.cssText = `width: ${scale * own}px; margin: ${-scale * top}px 0 0 ${-scale * left}px`;
      copy.alt = "";
      copy.src = image.src;
      piece.append(copy);
      line.append(piece);
    }
    all.append(line);
  }
  link.append(all);
}

function stackAll() {
  document.querySelectorAll("article figure img[data-rows]").forEach(stack);
}

// ---- graphs: vitutils puts them into the page as pictures ----

function draw(image) {
  const box = image.parentElement;
  const text = new TextDecoder().decode(
    Uint8Array.from(atob(image.src.split(",")[1]), (c) => c.charCodeAt(0)),
  );
  const svg = new DOMParser().parseFromString(text, "image/svg+xml").documentElement;
  for (const part of svg.querySelectorAll("[id]")) part.removeAttribute("id");
  for (const title of svg.querySelectorAll("title")) title.remove();
  svg.classList.add("drawn");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", image.alt);
  const width = Number(image.getAttribute("width"));
  svg.style.setProperty("--width", width);
  svg.style.width = `max(100%, ${Math.round(0.75 * width)}px)`; // text of 10.5 px
  svg.style.maxWidth = `${width}px`;
  image.replaceWith(svg);

  const frame = document.createElement("div");
  frame.className = "graph";
  box.replaceWith(frame);
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Whole graph";
  button.addEventListener("click", () => enlarge(svg, width));
  frame.append(box, button);

  // Open where the graph begins: at the left edge of what its upper third shows, and with
  // the first node of its first row in view.
  const view = box.getBoundingClientRect();
  const nodes = [...svg.querySelectorAll(".node")].map((n) => n.getBoundingClientRect());
  const shown = nodes.filter((n) => n.top < view.top + view.height / 3);
  const first = nodes.reduce((a, b) => ((b.top - a.top || b.left - a.left) < 0 ? b : a));
  const left = Math.min(...shown.map((n) => n.left));
  box.scrollLeft += Math.max(left, first.right + 16 - view.width) - view.left - 8;
}

// ---- pictures: a click opens one large, Escape closes it ----

function enlarge(picture, width) {
  const box = document.createElement("dialog");
  box.className = "lightbox";
  box.setAttribute("aria-label", "The picture, large");
  const buttons = '<button type="button">Close</button><button type="button"></button>';
  box.innerHTML = `<header>${buttons}</header><div tabindex="0"></div>`;
  const [[close, size], pane] = [box.firstChild.children, box.lastChild];
  const copy = picture.cloneNode(true);
  copy.removeAttribute("style");
  pane.append(copy);
  const fit = (fits) => {
    box.classList.toggle("fits", fits);
    copy.style.width = fits ? "" : `${width}px`;
    size.textContent = fits ? "Larger" : "Whole";
  };
  const change = () => fit(!box.matches(".fits"));
  fit(true);
  copy.addEventListener("click", change);
  size.addEventListener("click", change);
  close.addEventListener("click", () => box.close());
  pane.addEventListener("click", (event) => event.target === pane && box.close());
  box.addEventListener("keydown", (event) => event.key === "Escape" && box.close());
  box.addEventListener("close", () => box.remove());
  document.body.append(box);
  box.showModal();
}

function openLarge(event) {
  const link = event.target.closest("article a.image-reference");
  const image = link?.querySelector("img");
  if (!image || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  const own = parseFloat(image.style.width) || image.naturalWidth;
  enlarge(image, Math.max(own, innerWidth > 600 ? 1.5 * own : 0));
}

// ---- paper: from either theme in the light one, solutions open and last ----

function toPaper() {
  const before = { theme: THEME.theme, undo: [] };
  THEME.theme = "light";
  for (const chapter of document.querySelectorAll("article > section")) {
    before.undo.push(...putLast(chapter));
  }
  const graphs = [...document.querySelectorAll("article svg.drawn")];
  before.undo.push(...graphs.map(inParts));
  return before;
}

/* A graph whose words would be smaller than 5.3 points on one page stands there in parts,
   at 6.7 points and as wide as their own nodes. A part ends with a narrow row of nodes,
   where few lines are cut, and the next one begins with that row. In CSS pixels: */
const PAPER = { width: 680, height: 850, part: 450, scale: 0.64, least: 0.5 };

function inParts(svg) {
  const box = svg.viewBox.baseVal;
  if (Math.min(PAPER.width / box.width, PAPER.height / box.height) >= PAPER.least) {
    return () => {};
  }
  const at = svg.getBoundingClientRect();
  const unit = box.width / at.width;
  const place = (x, y) => [(x - at.left) * unit, (y - at.top) * unit];
  const rows = []; // of nodes that overlap in height
  const nodes = [...svg.querySelectorAll(".node")].map((n) => n.getBoundingClientRect());
  for (const node of nodes.sort((a, b) => a.top - b.top)) {
    const [left, top] = place(node.left, node.top);
    const [right, bottom] = place(node.right, node.bottom);
    if (!rows.length || top > rows.at(-1).bottom) rows.push({ top, bottom, xs: [] });
    const row = rows.at(-1);
    row.bottom = Math.max(row.bottom, bottom);
    row.xs.push(left, right);
  }
  const ways = [...svg.querySelectorAll(".edge path")].flatMap((path) => {
    const matrix = path.getScreenCTM();
    const long = path.getTotalLength();
    return Array.from({ length: 41 }, (_, i) => {
      const point = path.getPointAtLength((long * i) / 40).matrixTransform(matrix);
      return place(point.x, point.y);
    });
  });
  const high = PAPER.part / PAPER.scale;
  const span = (row) => Math.max(...row.xs) - Math.min(...row.xs);
  const parts = [];
  for (let first = 0, last = 0; last < rows.length - 1; first = last) {
    const from = rows[first].top;
    last = rows.findLastIndex((row) => row.bottom <= from + high);
    if (last < rows.length - 1) {
      const near = rows.slice(first + 1, Math.max(last, first + 1) + 1);
      const low = near.filter((row) => row.bottom > from + 0.7 * high);
      low.sort((one, other) => span(one) - span(other));
      last = rows.indexOf(low[0] ?? near.at(-1));
    }
    const [top, bottom] = [from - 8, rows[last].bottom + 8];
    const seen = ways.filter(([, y]) => y >= top && y <= bottom).map(([x]) => x);
    const xs = [...rows.slice(first, last + 1).flatMap((row) => row.xs), ...seen];
    const [left, right] = [Math.min(...xs) - 4, Math.max(...xs) + 4];
    const copy = svg.cloneNode(true);
    copy.setAttribute("viewBox", [left, top, right - left, bottom - top].join(" "));
    copy.setAttribute("width", right - left);
    copy.setAttribute("height", bottom - top);
    copy.style.setProperty("--width", right - left);
    if (first) {
      const words = document.createElement("p");
      words.textContent = "The graph goes on; its last row stands here once more.";
      parts.push(words);
    }
    parts.push(copy);
  }
  const frame = svg.closest(".graph");
  frame.classList.add("parted");
  svg.replaceWith(...parts);
  return () => {
    parts[0].replaceWith(svg);
    for (const each of parts.slice(1)) each.remove();
    frame.classList.remove("parted");
  };
}

/* Open what is folded in a chapter, answers at its end; return the steps back. */
function putLast(chapter) {
  const undo = [];
  const answers = document.createElement("section");
  answers.innerHTML = "<h2>Solutions</h2>";
  for (const details of chapter.querySelectorAll("details:not([class])")) {
    const mark = document.createComment("");
    const heading = details.closest("section").querySelector("h3");
    details.before(mark);
    undo.push(() => {
      mark.replaceWith(details);
      details.open = false;
    });
    details.open = true;
    if (!heading) continue;
    const title = document.createElement("h3");
    title.textContent = heading.firstChild.textContent;
    answers.append(title, details);
  }
  if (answers.childElementCount > 1) chapter.append(answers);
  return [...undo, () => answers.remove()];
}

function print() {
  let before = null;
  const change = (paper) => {
    if (paper && !before) before = toPaper();
    if (paper || !before) return;
    before.undo.forEach((step) => step());
    THEME.theme = before.theme;
    before = null;
  };
  addEventListener("beforeprint", () => change(true));
  addEventListener("afterprint", () => change(false));
  matchMedia("print").addEventListener("change", (event) => change(event.matches));
}

// ---- search: results show the words of a page, not the TeX of its formulas ----

const BESIDE = "#jb-print-docs-body, .bd-header-article, .bd-sidebar-secondary, footer";

function showWords() {
  const plain = Search.htmlToText;
  Search.htmlToText = (html, anchor) => {
    const page = new DOMParser().parseFromString(html, "text/html");
    page.querySelectorAll(".math").forEach((math) => math.replaceWith("…"));
    page.querySelectorAll(BESIDE).forEach((part) => part.remove());
    return plain(page.documentElement.outerHTML, anchor);
  };
  const excerpt = Search.makeSearchSummary;
  Search.makeSearchSummary = (...found) => {
    const shown = excerpt(...found); // cut amid a word at both ends
    if (shown) shown.textContent = shown.textContent.replace(/^\.{3}\S*|\S*\.{3}$/g, "…");
    return shown;
  };
}

// ---- the theme's frame, for those who listen: names that hold what is seen ----

function name() {
  document.querySelector(".search-button-field")?.removeAttribute("aria-label");
  for (const button of document.querySelectorAll(".theme-switch-button")) {
    button.setAttribute("aria-label", "Color mode: light, dark or system settings");
  }
  const sidebar = document.querySelector("#pst-primary-sidebar");
  sidebar?.setAttribute("role", "navigation");
  sidebar?.setAttribute("aria-label", "Book");
}

if (typeof Search !== "undefined") showWords();
addEventListener("DOMContentLoaded", () => {
  document.querySelectorAll(GRAPHS).forEach(draw);
  document.addEventListener("click", openLarge);
  name();
  print();
  document.querySelectorAll("article .highlight-bash pre").forEach(hangCommand);
  wrap();
  PHONE.addEventListener("change", wrap);
  stackAll();
  addEventListener("resize", stackAll);
  watch();
  const scrolled = (event) => event.target.matches?.(WIDE) && fade(event.target);
  document.addEventListener("scroll", scrolled, { capture: true, passive: true });
});
addEventListener("load", () => window.MathJax?.startup?.promise.then(watch));
