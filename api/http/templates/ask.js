// Sends the request, and makes the curl command for it.

// Retries after 503.
const MOST_RETRIES = 2;
const MOST_RETRY_SECONDS = 30;

// An error to show. atKey: it is about the API key.
class Failure extends Error {
  constructor(sentence, requestId = "", atKey = false) {
    super(sentence);
    this.requestId = requestId;
    this.atKey = atKey;
  }
}

// The prediction for a form. say: shows a status. Throws Failure, and AbortError once `signal` is aborted.
async function ask(url, form, key, signal, say) {
  for (let retries = 0; ; retries += 1) {
    const response = await send(url, form, key, signal);
    if (response.status !== 503 || retries === MOST_RETRIES) return read(response, key, signal);
    const seconds = Math.min(Number(response.headers.get("Retry-After")) || 1, MOST_RETRY_SECONDS);
    say(`The server is busy. Asking again in ${seconds} s (${retries + 1} of ${MOST_RETRIES}) …`);
    await new Promise(resume => setTimeout(resume, 1000 * seconds));
    signal.throwIfAborted();
  }
}

async function send(url, body, key, signal) {
  const headers = key ? {Authorization: `Bearer ${key}`} : {};
  try {
    return await fetch(url, {method: "POST", body, headers, signal});
  } catch {
    signal.throwIfAborted();
    throw new Failure("The server could not be reached, or the picture was moved or changed since you chose it. "
                      + "Check both, then press Classify.");
  }
}

async function read(response, key, signal) {
  const answer = await response.json().catch(() => null);
  signal.throwIfAborted();
  if (response.ok && typeof answer?.probability === "number") return answer;
  const requestId = answer?.request_id ?? response.headers.get("X-Request-ID") ?? "";
  const sentence = typeof answer?.detail === "string" ? answer.detail
    : `Unexpected response (status ${response.status}), perhaps of a proxy.`;
  if (response.status === 401 && key) {  // the server's detail is for API clients
    throw new Failure(`The server does not know this key (request ${requestId}).`, "", true);
  }
  throw new Failure(sentence, requestId);
}

// The curl command that sends the same form. --form-string, since -F interprets @, < and ; in texts.
function curl(url, form, wantsKey) {
  const fields = [...form].flatMap(([name, value]) =>
    value instanceof File ? ["-F", quoted(`${name}=@"${value.name.replace(/["\\]/g, "\\$&")}"`)]
      : [name === "text" ? "--form-string" : "-F", quoted(`${name}=${value}`)]);
  const key = wantsKey ? ["-H", '"Authorization: Bearer $API_KEY"'] : [];
  return ["curl", ...key, ...fields, quoted(url)].join(" ");
}

// Quoted for a POSIX shell.
function quoted(word) {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}
