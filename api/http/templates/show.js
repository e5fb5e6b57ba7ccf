// Shows a response; all values are inserted as text.

const at = id => document.getElementById(id);
const LABELS = {offensive: "Offensive", "non-offensive": "Not offensive", review: "For a person to decide"};

function element(tag, className = "", ...children) {
  const made = document.createElement(tag);
  made.className = className;
  made.append(...children);
  return made;
}

// never "100.0 %" for a probability below 1
function percent(p) {
  return p > 0.999 && p < 1 ? "over 99.9\u00a0%" : p < 0.001 && p > 0 ? "under 0.1\u00a0%" : exactly(p);
}

function exactly(p) {
  return `${(100 * p).toFixed(1)}\u00a0%`;
}

function showAnswer(answer) {
  at("answer").dataset.label = answer.label;
  at("verdict").textContent = LABELS[answer.label] ?? answer.label;
  at("sentence").textContent = sentenceOf(answer);
  showScale(answer);
  showWhy(answer);
  const {model, request_id} = answer;
  at("by").textContent = `Answered by ${model.name}, version ${model.version}; request ${request_id}.`;
}

function sentenceOf({label, probability, threshold, review}) {
  const found = `The probability that it is offensive is ${percent(probability)}`, band = bandOf({review});
  if (band) return `${found}; from ${exactly(band.low)} to ${exactly(band.high)} a person decides.`;
  const side = label === "offensive" ? "not below" : "below";
  return `${found}, ${side} the threshold of ${exactly(threshold)}.`;
}

// Without review, the band is missing or empty.
function bandOf({review}) {
  return review && review.low < review.high ? review : null;
}

function showScale(answer) {
  const key = element("div", "key soft", element("span", "is-mark", `threshold ${exactly(answer.threshold)}`));
  const band = bandOf(answer);
  if (band) key.append(element("span", "is-band", `a person decides: ${exactly(band.low)} to ${exactly(band.high)}`));
  const left = element("span", "", "0\u00a0% harmless"), right = element("span", "", "offensive 100\u00a0%");
  at("scale").replaceChildren(bar("Probability of offensive", answer.probability, answer),
    element("div", "ends soft", left, right), key);
}

// A bar with an accessible label.
function bar(name, probability, answer) {
  const fill = element("div", "fill"), mark = element("div", "mark"), made = element("div", "bar", fill);
  const band = bandOf(answer);
  fill.style.width = `${100 * probability}%`;
  mark.style.left = `${100 * answer.threshold}%`;
  if (band) {
    const drawn = element("div", "band");
    drawn.style.left = `${100 * band.low}%`;
    drawn.style.width = `${100 * (band.high - band.low)}%`;
    made.append(drawn);
  }
  made.append(mark);
  made.setAttribute("role", "img");
  made.setAttribute("aria-label", `${name}: ${percent(probability)}, threshold ${exactly(answer.threshold)}`
    + (band ? `, a person decides from ${exactly(band.low)} to ${exactly(band.high)}` : ""));
  return made;
}

function showWhy({explanation, ...answer}) {
  at("why").hidden = !explanation;
  if (!explanation) return;
  const sides = [["The picture alone", explanation.image_alone], ["The words alone", explanation.text_alone]]
    .filter(([, probability]) => typeof probability === "number");
  // alone, it would only repeat the answer
  if (sides.length) sides.push(["Both together", explanation.both]);
  at("sides").replaceChildren(...sides.map(([name, probability]) => element("div", "",
    element("dt", "", name, element("b", "", percent(probability))),
    element("dd", "", bar(name, probability, {threshold: answer.threshold})))));
  at("note").textContent = explanation.note ?? "";
  showNeighbours(explanation.neighbours);
}

function showNeighbours(neighbours) {
  at("neighbours").hidden = !neighbours.length;
  at("rows").replaceChildren(...neighbours.map(({id, label, similarity}) => element("tr", "",
    element("td", "", id), element("td", "", LABELS[label] ?? label), element("td", "", similarity.toFixed(2)))));
}
