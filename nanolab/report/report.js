// Inside a frame that may not open pages (MLflow shows a report in one) a click on a number says which run it stands in.
const where = document.getElementById("where");
document.addEventListener("click", (event) => {
  const link = event.target.closest("a");
  if (!link) { where.hidden = true; return; }
  const inside = link.getAttribute("href");
  if (inside.startsWith("#")) {
    event.preventDefault();
    document.getElementById(inside.slice(1)).scrollIntoView();
  } else if (window.origin === "null" && window.self !== window.top) {
    event.preventDefault();
    where.textContent = link.title + "\n" + link.href;
    where.hidden = false;
  }
});
if (window.matchMedia("(max-width: 62rem)").matches) document.querySelector("nav details").open = false;
