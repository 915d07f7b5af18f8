// Calls of the server, with its token.

const KEY = "vidseg-token";
const given = /^#token=(.+)$/.exec(location.hash);
if (given) {
  sessionStorage.setItem(KEY, decodeURIComponent(given[1]));
  history.replaceState(null, "", location.pathname);
}

export const token = () => sessionStorage.getItem(KEY);
export const setToken = value => sessionStorage.setItem(KEY, value);

export async function call(path, options = {}, text = false) {
  const headers = { ...options.headers };
  if (token()) headers.Authorization = `Bearer ${token()}`;
  const response = await fetch(path, { ...options, headers });
  if (response.ok) return text ? response.text() : response.json();
  let message = response.statusText;
  try { message = (await response.json()).error.message; } catch { /* not of this server */ }
  const error = new Error(message);
  error.status = response.status;
  throw error;
}
