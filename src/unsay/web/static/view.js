// What a script adds to pages that work without one: lists that follow the filter while it is typed, the keyboard,
// lists of running experiments that keep up, traces token by token. No text from the lab is ever made into markup here
// other than what the server sent as a page.
"use strict";

// -- lists ------------------------------------------------------------------------

const form = document.querySelector("form[data-live]");
let latest = 0;

function focusable(place) {
  return [...place.querySelectorAll("a, button, input, .scroll")];
}

async function showList(address) {
  const mine = ++latest;
  let answer;
  try {
    answer = await fetch(address);
  } catch {
    return; // the server ended; the page stays as it was
  }
  if (!answer.ok || mine !== latest) return;
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const fresh = page.querySelector("#results");
  const old = document.querySelector("#results");
  if (!fresh || !old || mine !== latest) return;
  if (!fresh.isEqualNode(old)) {
    const marked = new Set([...old.querySelectorAll("input[name=of]:checked")].map((box) => box.value));
    const focused = focusable(old).indexOf(document.activeElement);
    const scrolled = old.querySelector(".scroll")?.scrollLeft ?? 0;
    old.replaceWith(document.adoptNode(fresh));
    for (const box of fresh.querySelectorAll("input[name=of]")) box.checked = marked.has(box.value);
    if (focused >= 0) focusable(fresh)[focused]?.focus({ preventScroll: true });
    fresh.querySelector(".scroll")?.scrollTo(scrolled, 0);
  }
  const [before, after] = [document, page].map((each) => each.querySelector("footer a"));
  if (before && after) before.href = after.href;
  history.replaceState(null, "", address);
}

if (form) {
  const follow = () => {
    const fields = [...new FormData(form)].filter(([, value]) => value !== "");
    const address = form.getAttribute("action") + (fields.length ? "?" + new URLSearchParams(fields) : "");
    showList(address);
  };
  let waiting;
  form.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(follow, 40);
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    follow();
  });
  // What was typed before this script was there.
  const asked = new URLSearchParams(location.search);
  const differs = [...form.elements].some((field) => {
    if (!field.name || field.type === "hidden") return false;
    const value = field.type === "checkbox" && !field.checked ? "" : field.value.trim();
    return value ? !asked.getAll(field.name).map((each) => each.trim()).includes(value) : Boolean(asked.get(field.name));
  });
  if (differs) follow();
  const keepUp = async () => {
    const began = performance.now();
    if (document.querySelector("#results[data-running]") && !document.hidden) await showList(location.href);
    setTimeout(keepUp, Math.max(2000, 10 * (performance.now() - began))); // a tenth of the server's time at most
  };
  setTimeout(keepUp, 2000);
}

// -- keyboard ---------------------------------------------------------------------

function targets() {
  return [...document.querySelectorAll("#results [data-open], .items [data-open]")].filter(
    (link) => link.offsetParent !== null,
  );
}

function move(by) {
  const links = targets();
  if (!links.length) {
    document.querySelector(by > 0 ? "a[rel=next]" : "a[rel=prev]")?.click();
    return;
  }
  const at = links.indexOf(document.activeElement);
  const next = links[at < 0 ? (by > 0 ? 0 : links.length - 1) : at + by];
  if (next) next.focus();
  else document.querySelector(by > 0 ? "a[rel=next]" : "a[rel=prev]")?.click();
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const search = document.querySelector("input[type=search]");
  const typing = event.target.matches("input:not([type=checkbox]):not([type=range]), select, textarea");
  if (event.key === "Escape") {
    if (typing) event.target.blur();
    else document.querySelector("a[rel=up]")?.click();
  } else if (typing) {
    return;
  } else if (event.key === "j") {
    move(1);
  } else if (event.key === "k") {
    move(-1);
  } else if (event.key === "/" && search) {
    event.preventDefault();
    search.focus();
    search.select();
  }
});

// -- a trace, token by token ------------------------------------------------------

const replay = document.querySelector("#replay");
if (replay) {
  const tokens = [...document.querySelectorAll("#trace [data-token]")];
  const slider = replay.querySelector("input");
  const said = replay.querySelector("output");
  const play = replay.querySelector("[data-act=play]");
  let timer = null;

  const show = () => {
    const shown = Number(slider.value);
    const whole = shown === tokens.length;
    tokens.forEach((token, at) => {
      token.classList.toggle("later", at >= shown);
      token.classList.toggle("now", !whole && at === shown - 1);
      if (token.tagName === "DEL") token.classList.toggle("standing", Number(token.dataset.at) >= shown);
    });
    said.textContent = `${shown} of ${tokens.length}`;
    if (timer) tokens[shown - 1]?.scrollIntoView({ block: "nearest" });
  };
  const stop = () => {
    clearInterval(timer);
    timer = null;
    play.textContent = "Replay";
    play.setAttribute("aria-pressed", "false");
  };
  const step = (by) => {
    slider.value = Number(slider.value) + by;
    show();
    if (Number(slider.value) === tokens.length) stop();
  };
  replay.addEventListener("click", (event) => {
    const act = event.target.dataset.act;
    if (act === "forward") step(1);
    else if (act === "back") step(-1);
    else if (act === "play" && timer) stop();
    else if (act === "play") {
      if (Number(slider.value) === tokens.length) slider.value = 0;
      play.textContent = "Pause";
      play.setAttribute("aria-pressed", "true");
      timer = setInterval(() => step(1), 120);
      show();
    }
  });
  slider.addEventListener("input", () => {
    stop();
    show();
  });
  replay.hidden = false;
  show();
}
