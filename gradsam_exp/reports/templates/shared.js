"use strict";
// What every page needs: its content, and small helpers.

const report = JSON.parse(document.getElementById("content").textContent);
const byId = (id) => document.getElementById(id);
const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const fixed = (value, digits = 3) => (value === null || value === undefined ? "–" : value.toFixed(digits));
const signed = (value) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(3);

/** Fill a select with `[value, text]`; keeps what was chosen if it is still there. */
function fill(select, options, chosen = select.value) {
  select.replaceChildren(...options.map(([value, text]) => new Option(text, value)));
  if (options.some(([value]) => String(value) === String(chosen))) select.value = chosen;
}

for (const button of document.querySelectorAll("button.copy")) {
  button.addEventListener("click", async () => {
    const code = button.parentElement.querySelector("code");
    getSelection().selectAllChildren(code); // if nothing else, Ctrl-C copies it
    let copied = false;
    try {
      await navigator.clipboard.writeText(code.textContent);
      copied = true;
    } catch {
      copied = document.execCommand("copy");
    }
    button.parentElement.querySelector("[role=status]").textContent = copied ? "copied" : "press Ctrl-C";
  });
}
