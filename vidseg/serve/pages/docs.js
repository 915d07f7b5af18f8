// The routes of openapi.json as a page.
const made = (kind, text) => Object.assign(document.createElement(kind), { textContent: text });

const found = await (await fetch("/openapi.json")).json();
for (const [path, methods] of Object.entries(found.paths)) {
  for (const [method, route] of Object.entries(methods)) {
    const part = document.createElement("section");
    const title = document.createElement("h2");
    title.append(made("code", `${method.toUpperCase()} ${path}`));
    part.append(title, made("p", route.summary ?? ""));
    if (route.requestBody?.description) part.append(made("p", `Body: ${route.requestBody.description}`));
    const list = document.createElement("ul");
    for (const each of route.parameters ?? []) {
      const item = document.createElement("li");
      const initial = each.schema?.default;
      item.append(made("code", each.name), ` (${each.in})`, each.description ? `: ${each.description}` : "",
        initial === undefined ? "" : `; default ${initial}`);
      list.append(item);
    }
    part.append(list);
    document.getElementById("routes").append(part);
  }
}
