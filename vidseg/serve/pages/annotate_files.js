// Import and export of label files.

import { api } from "./annotate_api.js";

const $ = (id) => document.getElementById(id);
const WITH_ALL_DIVISIONS = ["lists", "frames"];

// `load()` reads the data set again, `say(text)` and `fail(error)` show what happened.
export function addFiles({ load, say, fail }) {
  let several = false;
  const showDivisions = () => ($("division-field").hidden = !several || WITH_ALL_DIVISIONS.includes($("form").value));
  $("form").addEventListener("change", showDivisions);
  $("export").addEventListener("click", async () => {
    try {
      say(await api.download($("form").value, $("division-field").hidden ? null : $("division").value));
    } catch (error) {
      fail(error);
    }
  });
  $("import").addEventListener("change", async () => {
    if (!$("import").files.length) return;
    say("The files are read.");
    try {
      const { report } = await api.importFiles($("import-form").value, $("import").files);
      await load();
      say(report);
    } catch (error) {
      fail(error);
    }
    $("import").value = "";
  });
  return {
    draw(divisions) {
      several = divisions.length > 1;
      $("division").replaceChildren(...divisions.map((name) => new Option(name || "(none)", name)));
      showDivisions();
    },
  };
}
