// Exchanges the token of the address's fragment, which no server is sent, for a cookie.
"use strict";

const form = document.getElementById("sign-in");
const problem = document.getElementById("problem");

async function signIn(token) {
  const body = new URLSearchParams({ token });
  const answer = await fetch("/session", { method: "POST", body });

  if (answer.ok) {
    location.replace("/");
  } else {
    const text = document.createElement("p");
    text.className = "message problem";
    text.textContent = "This is not the token. After a restart there is a new one.";
    problem.replaceChildren(text);
  }
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  signIn(form.elements.token.value.trim());
});

const token = new URLSearchParams(location.hash.slice(1)).get("token");

if (token) {
  // Before anything else: it stays in no history, and in no picture of the screen.
  history.replaceState(null, "", "/");
  signIn(token);
}
