(() => {
  const bar = document.getElementById("filter");
  if (!bar) return;
  const buttons = [...bar.querySelectorAll("button")];
  const items = [...document.querySelectorAll(".example")];
  const shown = bar.querySelector("output");
  const choose = (task) => {
    let count = 0;
    for (const item of items) {
      item.hidden = task !== "" && item.dataset.task !== task;
      if (!item.hidden) count += 1;
    }
    for (const button of buttons) button.setAttribute("aria-pressed", String(button.value === task));
    shown.textContent = `${count} of ${items.length} shown`;
  };
  for (const button of buttons) button.addEventListener("click", () => choose(button.value));
  document.addEventListener("play", (event) => {
    for (const audio of document.querySelectorAll("audio")) if (audio !== event.target) audio.pause();
  }, true);
  bar.hidden = false;
  choose("");
})();
