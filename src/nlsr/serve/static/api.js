// Talking to the server: the token, problem details, server-sent events.

const given = new URLSearchParams(location.hash.slice(1)).get("token");
if (given) {
  sessionStorage.setItem("token", given);
  history.replaceState(null, "", location.pathname); // it does not stay in the address
}
const token = sessionStorage.getItem("token");
const headers = token ? { authorization: `Bearer ${token}` } : {};

// The response of a request; an Error with the server's own words if it refuses.
export async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { ...options, headers: { ...headers, ...options.headers } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer. Is it still running?");
  }
  if (!response.ok) {
    const problem = await response.json().catch(() => ({}));
    if (response.status === 401) problem.detail = "Open the address that the server printed, with its token.";
    throw Object.assign(new Error(problem.detail ?? response.statusText), { status: response.status });
  }
  return response;
}

export const askJson = async (path, options) => (await ask(path, options)).json();

export const send = (path, json) =>
  askJson(path, { method: "POST", body: JSON.stringify(json), headers: { "content-type": "application/json" } });

// A form of what has a value.
export function form(values) {
  const data = new FormData();
  for (const [name, value] of Object.entries(values)) {
    if (value !== "" && value !== null && value !== undefined && value !== false) data.append(name, value);
  }
  return data;
}

// Calls `tell` with each job that changes, `again` when the server is there (once more), and `away` with the error when
// it is not. Never ends.
// EventSource cannot send a token, so the stream is read here.
export async function watch(tell, again, away) {
  for (;;) {
    try {
      const response = await ask("/api/events");
      await again();
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      let text = "";
      for (let part = await reader.read(); !part.done; part = await reader.read()) {
        text += part.value;
        const events = text.split("\n\n");
        text = events.pop();
        for (const event of events) {
          const data = event.split("\n").find((line) => line.startsWith("data: "));
          if (data) tell(JSON.parse(data.slice(6)));
        }
      }
    } catch (error) {
      away(error);
    }
    await new Promise((resolve) => setTimeout(resolve, 2000));
  }
}

// Saves what a path answers with, under the name that the server gives. What needs no token goes straight to the disk.
export async function download(path) {
  const link = document.createElement("a");
  link.download = "";
  if (!token) {
    link.href = path;
    link.click();
    return;
  }
  const response = await ask(path);
  const said = response.headers.get("content-disposition") ?? "";
  const name = /filename\*=utf-8''([^;]+)/i.exec(said)?.[1] ?? /filename="([^"]+)"/.exec(said)?.[1] ?? "result";
  link.href = URL.createObjectURL(await response.blob());
  link.download = decodeURIComponent(name);
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}
