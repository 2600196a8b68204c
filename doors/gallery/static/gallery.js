// Comfort only: previews on hover and focus, and details in a dialog. Without this file every link and form still works.

const dialog = document.getElementById("details-dialog");
const room = document.getElementById("details-room");
const still = matchMedia("(prefers-reduced-motion: reduce)");
let preview = null;

function gone(element, words) {
  const told = document.createElement("span");
  told.className = "gone";
  told.setAttribute("role", "status");
  told.textContent = words;
  element.replaceWith(told);
}

function explain(event) {
  const failed = event.target;
  const words = "cannot be loaded: it is gone, or this page is too old. Reload the page.";
  if (failed.matches?.("img[data-poster]")) gone(failed, `The poster ${words}`);
  else if (failed === preview) stop();
  else if (failed.id === "player") gone(failed, `The video ${words}`);
}

function play(link) {
  if (preview?.parentElement === link.querySelector(".tile") || still.matches) return;
  stop();
  preview = document.createElement("video");
  Object.assign(preview, { muted: true, loop: true, playsInline: true, preload: "none", className: "preview" });
  preview.setAttribute("aria-hidden", "true");
  preview.tabIndex = -1;
  preview.addEventListener("playing", (event) => event.target.classList.add("on"));
  preview.src = link.dataset.video;
  link.querySelector(".tile").append(preview);
  preview.play().catch(() => {}); // it was stopped before it began
}

function stop() {
  if (!preview) return;
  const old = preview;
  preview = null;
  old.pause();
  old.removeAttribute("src"); // ends the download
  old.remove();
}

let shown = null; // the link whose details are open

async function show(link) {
  shown = link;
  stop();
  let answer;
  try {
    answer = await fetch(link.href, { credentials: "same-origin" });
  } catch {
    answer = null;
  }
  if (shown !== link) return;
  const page = answer?.ok && new DOMParser().parseFromString(await answer.text(), "text/html");
  const article = page && page.getElementById("details");
  if (!article) return void location.assign(link.href);
  room.replaceChildren(document.adoptNode(article));
  const title = room.querySelector("h1");
  dialog.setAttribute("aria-label", `Details of ${link.closest("[data-card]").dataset.name}`);
  title.tabIndex = -1;
  document.getElementById("details-page").href = link.href;
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
  const player = document.getElementById("player");
  if (player) {
    player.muted = true;
    player.play().catch(() => {}); // the browser may want a click; the controls are there
  }
}

function step(by) {
  const links = [...document.querySelectorAll("#shelf [data-details]")];
  const next = links[links.indexOf(shown) + by];
  if (next) show(next);
}

document.addEventListener("error", explain, true);

for (const link of document.querySelectorAll("#shelf [data-video]")) {
  link.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && play(link));
  link.addEventListener("pointerleave", stop);
  link.addEventListener("focus", () => link.matches(":focus-visible") && play(link));
  link.addEventListener("blur", stop);
}

if (dialog?.showModal) {
  document.getElementById("shelf")?.addEventListener("click", (event) => {
    const link = event.target.closest("[data-details]");
    if (!link || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
    event.preventDefault();
    show(link);
  });
  document.getElementById("details-before").addEventListener("click", () => step(-1));
  document.getElementById("details-next").addEventListener("click", () => step(1));
  dialog.addEventListener("keydown", (event) => {
    if (event.target.matches("video, input, select") || event.metaKey || event.ctrlKey || event.altKey) return;
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("close", () => {
    room.replaceChildren();
    const last = shown;
    shown = null;
    last?.focus({ preventScroll: false });
  });
}
