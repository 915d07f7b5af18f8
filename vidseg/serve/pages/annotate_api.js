// Requests of the annotation page. Every answer that is not 2xx throws an ApiError with the server's sentence.

import { token } from "./server.js";

export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function request(method, path, { query = {}, body } = {}) {
  const words = new URLSearchParams(query).toString();
  const headers = token() ? { Authorization: `Bearer ${token()}` } : {};
  const isForm = body instanceof FormData;
  if (body !== undefined && !isForm) headers["Content-Type"] = "application/json";
  let answer;
  try {
    answer = await fetch(`/v1/annotation${path}${words ? `?${words}` : ""}`, {
      method,
      headers,
      body: body === undefined || isForm ? body : JSON.stringify(body),
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
  source: (video) => json("GET", "/source", { query: { video } }),
  importFiles(form, files) {
    const body = new FormData();
    for (const file of files) body.append("files", file);
    return json("POST", "/import", { query: form ? { form } : {}, body });
  },
  frame: async (video, number) => (await request("GET", "/frame", { query: { video, number } })).blob(),
  // Returns the server's report.
  async download(form, division) {
    const answer = await request("GET", "/export", { query: division === null ? { form } : { form, division } });
    const name = /filename="([^"]+)"/.exec(answer.headers.get("Content-Disposition") || "");
    const link = document.createElement("a");
    link.href = URL.createObjectURL(await answer.blob());
    link.download = name ? name[1] : "labels";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    return decodeURIComponent(answer.headers.get("X-Report") || "");
  },
};
