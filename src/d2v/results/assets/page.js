// On paper everything is unfolded, but for where numbers come from.
const folded = [];
addEventListener("beforeprint", () => {
  for (const part of document.querySelectorAll("details:not(.run, .sources, [open])")) {
    part.open = true;
    folded.push(part);
  }
});
addEventListener("afterprint", () => {
  while (folded.length) folded.pop().open = false;
});
