"""Labels that are probably wrong, ranked by confident learning (cleanlab) on out-of-fold predictions; a page to judge them by eye.

Confident learning: Northcutt et al. 2021, https://arxiv.org/abs/1911.00068.
"""

import base64
import html
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from core.errors import UserError
from core.files import atomic
from core.labels import AGES, GENDERS, MASKS
from core.photo import PhotoError, load_photo
from prediction.tables import read_predictions

COLUMNS = ["field", "person", "photo", "path", "given", "better", "score", "suspect"]


CODES = {
    "mask": (6, 3, MASKS),
    "gender": (3, 2, GENDERS),
    "age": (1, 3, AGES),
}  # label // step % count


def predictions_of(runs: list[Path]) -> pd.DataFrame:
    """person, path, label and the 18 probabilities, averaged over runs that validated the same photos; UserError if they did not."""
    tables = []
    for run in runs:
        if not (run / "val_predictions.csv").is_file():
            raise UserError(
                f"{run}: has no val_predictions.csv; give a run that held people out, best one of --folds"
            )
        tables.append(read_predictions(run)[0].sort_values("path", ignore_index=True))
    first = tables[0]
    for run, table in zip(runs, tables, strict=True):
        if not table["path"].equals(first["path"]) or not table["label"].equals(first["label"]):
            raise UserError(
                f"{run}: validated other photos than {runs[0]}, or with other labels; give runs of one --folds and data set"
            )
    columns = [f"p{label}" for label in range(18)]
    return first[["person", "path", "label"]].join(
        sum(table[columns] for table in tables) / len(tables)
    )


def rank(table: pd.DataFrame) -> pd.DataFrame:
    """All labels, the most suspect first in each attribute: field, person, photo, path, given, better, score, suspect.

    Mask is judged by photo; gender and age band by person, over the mean of the person's photos. score: cleanlab's label quality,
    0 (wrong) to 1; suspect: whether confident learning takes it for wrong.
    """
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    probabilities = table[[f"p{label}" for label in range(18)]].to_numpy()
    ranked = []
    for field, (step, count, names) in CODES.items():
        codes = np.arange(18) // step % count
        share = np.stack(
            [probabilities[:, codes == code].sum(axis=1) for code in range(count)], axis=1
        )
        of = pd.DataFrame(share).assign(
            person=table["person"], path=table["path"], label=table["label"] // step % count
        )
        of["photo"] = [Path(path).stem.lower() for path in of["path"]]
        if field != "mask":
            taken = {**dict.fromkeys(range(count), "mean"), "path": "last", "label": "first"}
            of = of.groupby("person", as_index=False).agg(taken).assign(photo="")
        share = of[list(range(count))].to_numpy()
        share = share / share.sum(axis=1, keepdims=True)
        labels = of["label"].to_numpy()
        present = np.isin(range(count), labels)
        if present.sum() < 2:
            continue  # nothing can be mistaken for another class
        known = np.cumsum(present) - 1  # cleanlab wants the classes without gaps
        among = share[:, present] / share[:, present].sum(axis=1, keepdims=True)
        of["score"] = get_label_quality_scores(known[labels], among).round(6)
        of["suspect"] = find_label_issues(
            known[labels], among, n_jobs=1
        )  # its pool of processes was seen to wait for ever
        of = of.assign(
            field=field,
            given=[names[code] for code in labels],
            better=[names[code] for code in share.argmax(axis=1)],
        )
        ranked.append(of.sort_values(["score", "person", "photo"])[COLUMNS])
    return pd.concat(ranked, ignore_index=True)


def draft(ranked: pd.DataFrame) -> pd.DataFrame:
    """The suspects as corrections: person, field, value, photo. An age band has no value to put in: its year is left to the reader."""
    chosen = ranked[
        ranked["suspect"] & (ranked["field"] != "age") & (ranked["given"] != ranked["better"])
    ]
    return chosen.rename(columns={"better": "value"})[["person", "field", "value", "photo"]]


def write_page(shown: pd.DataFrame, output: Path) -> None:
    """A page with a photo for each row, to be accepted or rejected, which gives the accepted ones back as corrections.csv."""
    rows = []
    for number, row in enumerate(shown.to_dict("records")):
        try:
            stream = io.BytesIO()
            Image.fromarray(load_photo(row["path"], (256, 192))).save(stream, "JPEG", quality=85)
            picture = f'<img src="data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}" alt="">'
        except PhotoError as error:
            picture = f"<p>{html.escape(error.reason)}</p>"
        name = html.escape(f"{row['person']} {row['photo']}")
        value = (
            '<input type="number" min="0" max="120" placeholder="age">'
            if row["field"] == "age"
            else ""
        )
        buttons = '<div class="judge"><button class="yes">accept</button><button class="no">reject</button></div>'
        rows.append(
            f'<figure data-n="{number}">{picture}<figcaption><small>{name}</small><br>{row["field"]}: '
            f"<b>{html.escape(row['given'])}</b> → <b>{html.escape(row['better'])}</b> <small>({row['score']:.2f})</small> {value}"
            f"</figcaption>{buttons}</figure>"
        )
    data = [
        {key: row[key] for key in ("person", "field", "better", "photo")}
        for row in shown.to_dict("records")
    ]
    page = PAGE.replace("ROWS", "\n".join(rows)).replace(
        "DATA", json.dumps(data, ensure_ascii=False).replace("</", "<\\/")
    )
    with atomic(output) as temporary:
        temporary.write_text(page, encoding="utf-8")


PAGE = """<!DOCTYPE html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Suspect labels</title>
<style>
body{font:15px/1.4 system-ui,"Noto Sans KR","Malgun Gothic",sans-serif;margin:0 auto;padding:0 1em 2em;max-width:1400px;color:#222}
header{position:sticky;top:0;background:#fff;padding:.6em 0;border-bottom:1px solid #ccc;display:flex;flex-wrap:wrap;gap:.4em 1em;
align-items:center}
h1{font-size:1.3em;margin:0}p{color:#555;max-width:60em}
main{display:grid;grid-template-columns:repeat(auto-fill,minmax(195px,1fr));gap:1em}
figure{margin:0;padding:.6em;border:2px solid #ddd;border-radius:6px;display:flex;flex-direction:column}
figure[hidden]{display:none}figure.accepted{border-color:#0072B2;background:#eaf4fb}figure.rejected{opacity:.4}
figcaption{flex:1;margin-top:.3em;overflow-wrap:anywhere}small{color:#555}
figure img{width:100%;aspect-ratio:3/4;object-fit:contain;background:#eee}
button,select,input{font:inherit;padding:.2em .6em}input{width:5.5em;padding:.2em .3em}.judge{display:flex;gap:.4em;margin-top:.5em}
.judge button{flex:1;padding:.2em}.accepted .yes,.rejected .no{font-weight:bold}
#save{background:#0072B2;color:#fff;border:0;border-radius:4px;padding:.4em .8em}
</style>
<header><h1>Suspect labels</h1>
<select id="field"><option>all</option><option>mask</option><option>gender</option><option>age</option></select>
<button id="save">save accepted as corrections.csv</button> <span id="count"></span></header>
<p>The most suspect first: given label → what the model says, and the quality of the given label from 0 (wrong) to 1. Mask is judged by
photo, gender and age by person. A corrected age is a number of years.</p>
<main>ROWS</main>
<script>
const rows = DATA;
const figures = [...document.querySelectorAll("figure")];
const count = () => {
  const judged = name => document.querySelectorAll("." + name).length;
  document.getElementById("count").textContent = `${judged("accepted")} accepted, ${judged("rejected")} rejected of ${figures.length}`;
};
const judge = (f, name) => { f.className = name; count(); window.onbeforeunload = () => true; };  // the browser asks before leaving
figures.forEach(f => {
  f.querySelector(".yes").onclick = () => judge(f, f.className === "accepted" ? "" : "accepted");
  f.querySelector(".no").onclick = () => judge(f, f.className === "rejected" ? "" : "rejected");
  const age = f.querySelector("input");
  if (age) age.oninput = () => judge(f, "accepted");
});
const choice = document.getElementById("field");
[...choice.options].forEach(o => {
  o.value = o.text === "all" ? "" : o.text;
  o.text += ` (${rows.filter(row => !o.value || row.field === o.value).length})`;
});
choice.onchange = event => {
  figures.forEach(f => { f.hidden = event.target.value !== "" && rows[f.dataset.n].field !== event.target.value; });
};
const cell = text => /[",\\n\\r]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text;
document.getElementById("save").onclick = () => {
  const lines = ["person,field,value,photo"], missing = [];
  figures.filter(f => f.className === "accepted").forEach(f => {
    const row = rows[f.dataset.n], age = f.querySelector("input"), value = age ? age.value : row.better;
    if (value === "" || (age && !age.checkValidity())) missing.push(row.person);
    else lines.push([row.person, row.field, value, row.photo].map(cell).join(","));
  });
  if (missing.length) { alert("give an age in years, 0 to 120, for " + missing.join(", ")); return; }
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([lines.join("\\n") + "\\n"], {type: "text/csv"}));
  link.download = "corrections.csv";
  window.onbeforeunload = null;
  link.click();
};
count();
</script></html>
"""
