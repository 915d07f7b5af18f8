// Requests of the annotation page. Every answer that is not 2xx throws an ApiError with the server's sentence.

export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

let token = sessionStorage.getItem("vidseg-token") || "";

export function setToken(value) {
  token = value;
  sessionStorage.setItem("vidseg-token", value);
}

async function request(method, path, { query = {}, body, type } = {}) {
  const words = new URLSearchParams(query).toString();
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  if (body !== undefined) headers["Content-Type"] = type || "application/json";
  let answer;
  try {
    answer = await fetch(`/v1/annotation${path}${words ? `?${words}` : ""}`, {
      method,
      headers,
      body: body === undefined || type ? body : JSON.stringify(body),
    });
  } catch {
    throw new ApiError(0, "The server does not answer. What was saved is safe; the last change was not sent.");
  }
  if (!answer.ok) {
    const text = await answer.text();
    let message = text;
    try {
      message = JSON.parse(text).error.message;
    } catch {
      // not in the server's form
    }
    throw new ApiError(answer.status, message || `the server answered ${answer.status}`);
  }
  return answer;
}

const json = async (...words) => (await request(...words)).json();

export const api = {
  project: () => json("GET", ""),
  videos: () => json("GET", "/videos"),
  labels: (video) => json("GET", "/labels", { query: { video } }),
  save: (video, body) => json("PUT", "/labels", { query: { video }, body }),
  undo: (video, body) => json("POST", "/undo", { query: { video }, body }),
  redo: (video, body) => json("POST", "/redo", { query: { video }, body }),
  addClass: (name) => json("POST", "/classes", { body: { name } }),
  suggestion: (video) => json("GET", "/suggestion", { query: { video } }),
  importFile: (form, name, file) =>
    json("POST", "/import", { query: { form, name }, body: file, type: "application/octet-stream" }),
  frame: async (video, number) => (await request("GET", "/frame", { query: { video, number } })).blob(),
  async download(form) {
    const answer = await request("GET", "/export", { query: { form } });
    const name = /filename="([^"]+)"/.exec(answer.headers.get("Content-Disposition") || "");
    const link = document.createElement("a");
    link.href = URL.createObjectURL(await answer.blob());
    link.download = name ? name[1] : "labels";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  },
};
