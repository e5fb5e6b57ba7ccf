// Input: choosing, pasting and dropping a picture, editing the text, submitting.

// The server's limit for a request (MAX_BODY_BYTES in api/schema.py).
const MOST_BYTES = {{ most_bytes }};

// Behind a proxy the page may be at /memes, without the slash that relative addresses need.
if (!location.pathname.endsWith("/")) history.replaceState(null, "", `${location.pathname}/${location.search}`);

const form = at("form"), image = at("image"), text = at("text"), result = at("result");
const wordless = at("wordless"), key = at("key");  // null without OCR, or if no key is required
let pictureUrl = "";
let readText = "";  // OCR text of the current picture
let answered = null;  // of the answer that is shown: words() and their source
let asking = new AbortController();

at("shortcut").hidden = false;
image.addEventListener("change", takePicture);
at("picture").addEventListener("error", () => {
  at("picture").hidden = true;
  at("unseen").hidden = !pictureUrl;
});
text.addEventListener("input", noteWords);
wordless?.addEventListener("change", noteWords);
form.addEventListener("submit", event => {
  event.preventDefault();
  classify();
});
form.addEventListener("keydown", event => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
});
at("copy").addEventListener("click", copyCommand);

document.addEventListener("paste", event => {
  const isText = event.clipboardData.types.includes("text/plain") && event.target.matches?.("textarea, input");
  if (!isText) bring(event, event.clipboardData);
});
document.addEventListener("dragover", event => {
  if (!event.dataTransfer.types.includes("Files")) return;
  event.preventDefault();
  at("drop").classList.add("over");
});
document.addEventListener("dragleave", event => {
  if (!event.relatedTarget) at("drop").classList.remove("over");
});
document.addEventListener("drop", event => {
  at("drop").classList.remove("over");
  bring(event, event.dataTransfer);
});

// Put a pasted or dropped file into the form's file input.
function bring(event, transfer) {
  const files = [...transfer.files];
  if (!files.length) return;
  event.preventDefault();
  const one = new DataTransfer();
  one.items.add(files.find(file => file.type.startsWith("image/")) ?? files[0]);
  image.files = one.files;
  takePicture();
}

function takePicture() {
  asking.abort();
  // a text for the previous picture is removed; one typed before the first picture is kept
  if (pictureUrl) text.value = "";
  URL.revokeObjectURL(pictureUrl);
  const file = image.files[0];
  pictureUrl = file ? URL.createObjectURL(file) : "";
  if (file) at("picture").src = pictureUrl;
  at("picture").hidden = !file;
  at("unseen").hidden = true;
  at("drop").classList.toggle("taken", Boolean(file));
  readText = "";
  clear();
  if (file) classify();
}

// null: classify without a text
function words() {
  return wordless?.checked ? null : text.value;
}

async function classify() {
  asking.abort();
  asking = new AbortController();
  const {signal} = asking, sent = words(), body = new FormData(form);
  if (!sent?.trim()) body.delete("text");
  answered = null;
  noteWords();
  wait(wordless && sent !== null && !sent.trim() ? "Reading the words and judging …" : "Judging …");
  try {
    refuse(image.files[0]);
    const answer = await ask(form.action, body, key?.value.trim(), signal, wait);
    takeAnswer(answer, sent);
    at("command").textContent = curl(form.action, body, Boolean(key));
    at("shell").hidden = false;
  } catch (error) {
    if (!signal.aborted) fail(error);
  }
}

// Checks before sending. Throws Failure.
function refuse(file) {
  if (file.size > MOST_BYTES) {
    const size = (file.size / 1e6).toFixed(1);
    throw new Failure(`The picture has ${size} MB, the limit is ${MOST_BYTES / 1e6} MB; choose a smaller one.`);
  }
  if (key && !/^[\x21-\x7e]+$/.test(key.value.trim())) {
    const why = key.value.trim() ? "An API key has letters, digits and signs only." : "The server asks for an API key.";
    throw new Failure(why, "", true);
  }
}

function wait(sentence) {
  tellKey("");
  at("error").replaceChildren();
  at("empty").hidden = true;
  at("status").className = "";
  at("status").textContent = sentence;
  result.setAttribute("aria-busy", "true");
}

function takeAnswer(answer, sent) {
  const untouched = words() === sent;
  if (answer.text.source === "ocr") {
    readText = answer.text.value;
    if (untouched) text.value = readText;
  }
  answered = {words: untouched ? words() : sent, source: answer.text.source};
  showAnswer(answer);
  at("answer").hidden = false;
  at("copied").textContent = "";
  noteWords();
  settle();
  // for screen readers
  at("status").className = "quiet";
  at("status").textContent = `${at("verdict").textContent}. ${at("sentence").textContent} ${at("origin").textContent}`;
  if (document.activeElement !== text) at("verdict").scrollIntoView({block: "nearest"});
}

function fail(error) {
  clear();
  if (!(error instanceof Failure)) {
    console.error(error);
    error = new Failure("This page could not show the answer: an error of the page.");
  }
  if (error.atKey && key) return tellKey(error.message);
  const lines = [error.message, error.requestId && `Request ${error.requestId}`].filter(Boolean);
  at("error").replaceChildren(...lines.map(line => element("p", "", line)));
  at("empty").hidden = true;
}

function tellKey(sentence) {
  if (!key) return;
  at("key-error").textContent = sentence;
  key.setAttribute("aria-invalid", String(Boolean(sentence)));
  if (sentence) key.focus();
}

function settle() {
  result.setAttribute("aria-busy", "false");
  at("status").textContent = "";
}

function clear() {
  settle();
  tellKey("");
  answered = null;
  at("error").replaceChildren();
  at("answer").hidden = at("shell").hidden = true;
  at("empty").hidden = false;
  noteWords();
}

// Shows the source of the text, and whether the answer is for it.
function noteWords() {
  text.disabled = Boolean(wordless?.checked);
  at("origin").textContent = originOf(words());
}

function originOf(now) {
  if (answered && now !== answered.words) return "Changed since the answer: press Classify to ask again.";
  if (now && now === readText) return "Read from the picture – correct it if it is wrong.";
  if (answered?.source === "ocr") return "No words were found on it; the picture was judged alone. Type any you see.";
  return "";
}

async function copyCommand() {
  const command = at("command");
  try {
    await navigator.clipboard.writeText(command.textContent);
    at("copied").textContent = "Copied";
  } catch {  // clipboard access needs HTTPS in some browsers
    getSelection().selectAllChildren(command);
    at("copied").textContent = "Selected: copy it with Ctrl+C";
  }
}
