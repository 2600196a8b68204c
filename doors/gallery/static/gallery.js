// Progressive enhancement: previews on hover and focus, and details in a dialog. All links and forms work without it.

const dialog = document.getElementById("details-dialog");
const content = document.getElementById("details-content");
const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)");
let preview = null;

function replaceWithMessage(element, text) {
  const message = document.createElement("span");
  message.className = "missing";
  message.setAttribute("role", "status");
  message.textContent = text;
  element.replaceWith(message);
}

function handleLoadError(event) {
  const failed = event.target;
  const reason = "cannot be loaded: it was deleted, or its link has expired. Reload the page.";
  if (failed.matches?.("img[data-poster]")) replaceWithMessage(failed, `The poster ${reason}`);
  else if (failed === preview) stop();
  else if (failed.id === "player") replaceWithMessage(failed, `The video ${reason}`);
}

function play(link) {
  if (preview?.parentElement === link.querySelector(".tile") || reducedMotion.matches) return;
  stop();
  preview = document.createElement("video");
  Object.assign(preview, { muted: true, loop: true, playsInline: true, preload: "none", className: "preview" });
  preview.setAttribute("aria-hidden", "true");
  preview.tabIndex = -1;
  preview.addEventListener("playing", (event) => event.target.classList.add("on"));
  preview.src = link.dataset.video;
  link.querySelector(".tile").append(preview);
  preview.play().catch(() => {}); // stopped before playback started
}

function stop() {
  if (!preview) return;
  const old = preview;
  preview = null;
  old.pause();
  old.removeAttribute("src"); // cancels the download
  old.remove();
}

let shown = null; // the link whose details are open

async function show(link) {
  shown = link;
  stop();
  let response;
  try {
    response = await fetch(link.href, { credentials: "same-origin" });
  } catch {
    response = null;
  }
  if (shown !== link) return;
  const page = response?.ok && new DOMParser().parseFromString(await response.text(), "text/html");
  const article = page && page.getElementById("details");
  if (!article) return void location.assign(link.href);
  content.replaceChildren(document.adoptNode(article));
  const title = content.querySelector("h1");
  dialog.setAttribute("aria-label", `Details of ${link.closest("[data-card]").dataset.name}`);
  title.tabIndex = -1;
  document.getElementById("details-page").href = link.href;
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
  const player = document.getElementById("player");
  if (player) {
    player.muted = true;
    player.play().catch(() => {}); // autoplay may be blocked; the user has the controls
  }
}

function showNeighbor(offset) {
  const links = [...document.querySelectorAll("#results [data-details]")];
  const next = links[links.indexOf(shown) + offset];
  if (next) show(next);
}

document.addEventListener("error", handleLoadError, true);

for (const link of document.querySelectorAll("#results [data-video]")) {
  link.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && play(link));
  link.addEventListener("pointerleave", stop);
  link.addEventListener("focus", () => link.matches(":focus-visible") && play(link));
  link.addEventListener("blur", stop);
}

if (dialog?.showModal) {
  document.getElementById("results")?.addEventListener("click", (event) => {
    const link = event.target.closest("[data-details]");
    if (!link || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
    event.preventDefault();
    show(link);
  });
  document.getElementById("details-before").addEventListener("click", () => showNeighbor(-1));
  document.getElementById("details-next").addEventListener("click", () => showNeighbor(1));
  dialog.addEventListener("keydown", (event) => {
    if (event.target.matches("video, input, select") || event.metaKey || event.ctrlKey || event.altKey) return;
    if (event.key === "ArrowLeft") showNeighbor(-1);
    if (event.key === "ArrowRight") showNeighbor(1);
  });
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("close", () => {
    content.replaceChildren();
    const last = shown;
    shown = null;
    last?.focus({ preventScroll: false });
  });
}
