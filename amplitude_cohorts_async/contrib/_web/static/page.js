// What the page does besides htmx: the filter, messages, and a stream that comes back.
"use strict";

const LONGEST_DELAY = 30000;

const list = document.getElementById("exports");
const messages = document.getElementById("messages");
const connection = document.getElementById("connection");
let delay = 500;
let timer = null;

// A page that is opened with a token again: it is not needed, and must not stay.
if (location.hash) history.replaceState(null, "", "/");

function connectLater() {
  if (timer !== null) return;
  timer = setTimeout(() => {
    timer = null;
    if (!list._htmx?.sse) htmx.trigger(list, "connect");
  }, delay);
  delay = Math.min(delay * 2, LONGEST_DELAY);
}

function isOpen() {
  return list.querySelector("[data-open]") !== null;
}

// What was ordered is not to be ordered again, and the month has changed.
document.addEventListener("htmx:after:request", (event) => {
  const request = event.detail.ctx.request;
  if (request.method !== "POST" || !event.detail.ctx.response.raw.ok) return;
  if (new URL(request.action, location).pathname !== "/exports") return;
  document.getElementById("choice").reset();
  htmx.trigger(document.body, "exports-started");
});

// A comparison has spent an export.
let wasWriting = false;
document.addEventListener("htmx:after:swap", () => {
  const isWriting = document.querySelector("#writes [hx-trigger]") !== null;
  if (wasWriting && !isWriting) htmx.trigger(document.body, "exports-started");
  wasWriting = isWriting;
});

document.addEventListener("input", (event) => {
  if (event.target.id !== "filter") return;
  const text = event.target.value.toLowerCase();
  for (const row of document.querySelectorAll("#cohorts tbody tr")) {
    const isChosen = row.querySelector("input").checked;
    row.hidden = !isChosen && !row.textContent.toLowerCase().includes(text);
  }
});

function clearMessages() {
  for (const id of ["problem", "result"]) {
    document.getElementById(id).replaceChildren();
  }
}

// What was said about the last action is not about the next one.
document.getElementById("choice").addEventListener("change", clearMessages);
document.addEventListener("htmx:before:request", (event) => {
  if (event.detail.ctx.request.method === "POST") clearMessages();
});

// Of a button: what loads by itself is tried again, and the stream says so.
document.addEventListener("htmx:error", (event) => {
  const ctx = event.detail?.ctx;
  if (ctx?.request?.method !== "POST" || ctx.response) return;
  const unanswered = document.getElementById("unanswered").content;
  document.getElementById("problem").replaceChildren(unanswered.cloneNode(true));
});

// Who dismisses a message goes on where they were, or else at its place.
let lastFocus = null;
document.addEventListener("focusin", (event) => {
  if (!messages.contains(event.target)) lastFocus = event.target;
});

messages.addEventListener("click", (event) => {
  const button = event.target.closest(".dismiss");
  if (button === null) return;
  button.closest(".message").remove();
  const isThere = lastFocus?.isConnected && !lastFocus.disabled;
  (isThere ? lastFocus : messages).focus({ preventScroll: true });
});

// hx-sse tries again by itself once it was connected, and waits longer each time.
document.addEventListener("htmx:sse:after:connection", () => {
  delay = 500;
  connection.hidden = true;
});

document.addEventListener("htmx:sse:error", (event) => {
  // After a restart with another token.
  if (event.detail.status === 401) location.reload();
  connection.hidden = false;
});

// The last event closes the stream. What was started just then needs another one.
document.addEventListener("htmx:sse:close", () => {
  if (isOpen()) connectLater();
});

document.addEventListener("htmx:after:swap", () => {
  if (isOpen() && !list._htmx?.sse) connectLater();
});

// A first connect that fails is not tried again by hx-sse.
for (const name of ["htmx:error", "htmx:response:error"]) {
  document.addEventListener(name, (event) => {
    const source = event.detail?.ctx?.sourceElement;
    if (source !== list || list._htmx?.sse) return;
    if (event.detail.ctx.response?.status === 401) location.reload();
    connection.hidden = false;
    connectLater();
  });
}
