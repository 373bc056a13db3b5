"""The report's page: one template and its style, for light and dark, phones and wide screens."""

STYLE = """
:root {
  color-scheme: light dark;
  --page: #f6f6f3; --card: #ffffff; --ink: #1c1d21; --soft: #5c6068; --line: #dcdcd6; --faint: #eeeeea;
  --good: #0b6e3d; --good-soft: #e0f2e7; --bad: #a4271b; --bad-soft: #fbe6e3; --accent: #1558b0;
  --s0: #1558b0; --s1: #c2410c; --s2: #0b7a4b; --s3: #7c3aed; --s4: #9a6700; --s5: #b0206e;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #131417; --card: #1c1e22; --ink: #eceded; --soft: #a4a8b0; --line: #363940; --faint: #26282d;
    --good: #63d297; --good-soft: #15352a; --bad: #ff9a8d; --bad-soft: #41201d; --accent: #84b6ff;
    --s0: #84b6ff; --s1: #ff9d5c; --s2: #5fd6a0; --s3: #c3a3ff; --s4: #e6bf53; --s5: #ff8cc4;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
}
main { max-width: 1120px; margin: 0 auto; padding: 28px 18px 64px; }
h1 { font-size: clamp(1.55rem, 4vw, 2.2rem); line-height: 1.2; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: clamp(1.3rem, 3vw, 1.7rem); line-height: 1.25; margin: 0 0 2px; overflow-wrap: anywhere; }
h3 { font-size: 1.06rem; margin: 34px 0 10px; }
p { margin: 0 0 10px; max-width: 72ch; }
a { color: var(--accent); }
a:focus-visible, summary:focus-visible, pre:focus-visible, .scroll:focus-visible {
  outline: 2px solid var(--accent); outline-offset: 2px;
}
.soft { color: var(--soft); }
.small { font-size: .875rem; }
.card + .run { margin-top: 44px; }
h1 + .card { margin-top: 14px; }
.run + .run { margin-top: 56px; padding-top: 36px; border-top: 2px solid var(--line); }
.status { display: inline-block; padding: 1px 10px; border-radius: 99px; font-size: .85rem; background: var(--faint); }
.status.good { background: var(--good-soft); color: var(--good); }
.status.bad { background: var(--bad-soft); color: var(--bad); }
.cards { display: grid; gap: 14px; grid-template-columns: repeat(auto-fit, minmax(min(100%, 260px), 1fr)); }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 16px 18px; min-width: 0; }
.outcome .what { font-weight: 600; overflow-wrap: anywhere; }
.outcome .values { display: flex; flex-wrap: wrap; align-items: baseline; gap: 4px 14px; margin-top: 6px; }
.outcome .value { display: flex; flex-direction: column; }
.outcome .value b { font-size: 1.35rem; font-weight: 600; line-height: 1.2; font-variant-numeric: tabular-nums; }
.outcome .value.after b { font-size: 2.1rem; font-weight: 700; }
.outcome .arrow { color: var(--soft); font-size: 1.2rem; }
.better { color: var(--good); } .worse { color: var(--bad); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .93rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 6px 14px 6px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
tr:last-child > td, tr:last-child > th { border-bottom: 0; }
th { font-weight: 600; } thead th { color: var(--soft); font-weight: 500; }
td.n, th.n { text-align: right; white-space: nowrap; }
tbody th { font-weight: 500; }
.path { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: .86rem;
  overflow-wrap: anywhere; }
th.wide { width: 36%; }
.share { display: flex; align-items: center; flex-wrap: wrap; gap: 0 10px; }
.share .small { min-width: 3.6em; text-align: right; }
.bar { flex: 1 1 60px; height: 9px; border-radius: 5px; background: var(--faint); }
.bar i { display: block; height: 100%; min-width: 2px; border-radius: 5px; background: var(--s0); }
.charts { display: grid; gap: 14px; grid-template-columns: repeat(auto-fit, minmax(min(100%, 340px), 1fr)); }
figure { margin: 0; } figure.card { padding: 12px 14px 8px; }
figcaption { font-weight: 600; font-size: .95rem; overflow-wrap: anywhere; }
.legend { display: flex; flex-wrap: wrap; gap: 0 14px; font-size: .84rem; color: var(--soft); font-weight: 400; }
.legend svg { width: 22px; height: 8px; margin-right: 5px; vertical-align: 1px; }
svg.chart { display: block; width: 100%; height: auto; }
svg text { fill: var(--soft); font-size: 12px; }
svg .grid { stroke: var(--faint); } svg .axis { stroke: var(--line); }
svg path, svg .key { fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
svg .mark line { stroke: var(--soft); stroke-dasharray: 3 4; }
svg .s0 { stroke: var(--s0); } svg .s1 { stroke: var(--s1); stroke-dasharray: 7 4; }
svg .s2 { stroke: var(--s2); stroke-dasharray: 2 4; } svg .s3 { stroke: var(--s3); stroke-dasharray: 10 3 2 3; }
svg .s4 { stroke: var(--s4); stroke-dasharray: 5 2; } svg .s5 { stroke: var(--s5); stroke-dasharray: 12 5; }
svg .raw { opacity: .28; stroke-width: 1; stroke-dasharray: none; }
svg .dot { stroke-dasharray: none; fill: var(--card); stroke-width: 2; }
svg .band { stroke: none; opacity: .18; }
svg .s0.band { fill: var(--s0); } svg .s1.band { fill: var(--s1); } svg .s2.band { fill: var(--s2); }
svg .s3.band { fill: var(--s3); } svg .s4.band { fill: var(--s4); } svg .s5.band { fill: var(--s5); }
.box { border: 1.5px solid var(--line); border-left: 5px solid var(--s0); border-radius: 10px; padding: 10px 12px;
  background: var(--card); min-width: 0; }
.box .box { margin-top: 10px; }
.box.d1 { border-left-color: var(--s1); } .box.d2 { border-left-color: var(--s2); }
.box.d3 { border-left-color: var(--s3); } .box.d4 { border-left-color: var(--s4); }
.box.d5 { border-left-color: var(--s5); } .box.core { border-style: dashed; border-left-color: var(--soft); }
.box p { margin: 2px 0 0; max-width: 80ch; font-size: .93rem; }
.box .name { font-weight: 650; overflow-wrap: anywhere; }
code { font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: .9em; }
.numbers { display: flex; flex-wrap: wrap; gap: 4px 6px; margin: 6px 0 2px; padding: 0; list-style: none; }
.numbers li { background: var(--faint); border-radius: 6px; padding: 0 8px; font-size: .84rem;
  overflow-wrap: anywhere; }
ol.events { margin: 12px 0 0; padding-left: 26px; font-size: .92rem; }
pre { margin: 0; padding: 12px 14px; background: var(--faint); border-radius: 8px; overflow-x: auto;
  white-space: pre-wrap; overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 4px 18px; margin: 14px 0 0; font-size: .93rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; min-width: 0; }
details { margin-top: 14px; } summary { cursor: pointer; color: var(--accent); }
@media (max-width: 560px) {
  .box { padding: 8px 0 8px 9px; border-right: 0; border-radius: 8px 0 0 8px; }
  dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: 8px; }
  .arrays { display: none; } .share .small { text-align: left; }
}
@media print { .run + .run { break-before: page; } }
img.shown { width: 72px; height: auto; image-rendering: pixelated; border: 1px solid var(--line); display: block; }
table.found { margin-top: 14px; }
table.found + table.found { margin-top: 22px; }
.parts > * + * { margin-top: 12px; }
table.found td { padding: 4px 6px; vertical-align: top; max-width: 180px; }
table.found td.right { outline: 2px solid var(--good); outline-offset: -2px; }
.looked { position: relative; width: 112px; }
.looked img { width: 100%; display: block; image-rendering: pixelated; }
.looked svg.over { position: absolute; inset: 0; width: 100%; height: 100%; }
"""

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>{{ style }}</style>
</head>
<body>
<main>
{% if runs|length > 1 %}
<h1>{{ title }}</h1>
<section class="card scroll" tabindex="0" aria-label="All runs">
<table>
<thead><tr><th>run</th><th>evaluated on</th><th>metric</th><th class="n">before</th><th class="n">after</th>
<th>change</th></tr></thead>
<tbody>
{% for run in runs %}{% for score in run.headline %}
<tr><th scope="row">{% if loop.first %}<a href="#run-{{ run.index }}">{{ run.name }}</a>{% endif %}</th>
<td>{{ score.set }}</td><td>{{ score.metric }}</td><td class="n">{{ value(score, "before") }}</td>
<td class="n">{{ value(score, "after") }}</td>
<td class="{{ score.verdict }}">{{ change(score) }}</td></tr>
{% else %}
<tr><th scope="row"><a href="#run-{{ run.index }}">{{ run.name }}</a></th>
<td colspan="5" class="soft">{{ run.status }}, no scores</td></tr>
{% endfor %}{% endfor %}
</tbody></table>
</section>
{% endif %}
{% macro shown(one) %}{% if one.image %}<img class="shown" src="{{ one.image }}" alt="an image">{% else %}
{{- one.text }}{% endif %}{% endmacro %}
{% for run in runs %}
<article class="run" id="run-{{ run.index }}">
<{{ run.heading }}>{{ run.name }}</{{ run.heading }}>
{% if run.doc %}<p>{{ words(run.doc) }}</p>{% endif %}
<p class="small soft"><span class="status {{ run.tone }}">{{ run.status }}</span>
{% for fact in run.facts %}<span>· {{ fact }}</span> {% endfor %}</p>
{% if run.message %}<p><strong>{{ run.message }}</strong></p>{% endif %}

<h3>Outcome</h3>
{% if run.headline %}
<div class="cards">
{% for score in run.headline %}
<div class="card outcome">
<div class="what">{{ score.metric }} on {{ score.set }}</div>
<div class="values">
{% for phase, label in run.main_phases if phase in score.by_phase %}
{% if not loop.first %}<span class="arrow" aria-hidden="true">→</span>{% endif %}
<span class="value {{ phase }}"><b>{{ value(score, phase) }}</b><span class="small soft">{{ label }}</span></span>
{% endfor %}
</div>
{% if score.verdict %}<div class="small {{ score.verdict }}">{{ change(score) }}</div>{% endif %}
</div>
{% endfor %}
</div>
{% if run.scores|length > run.headline|length or run.phases|length > run.main_phases|length %}
<details{% if run.scores|length <= 12 %} open{% endif %}><summary>All scores</summary>
<div class="scroll" tabindex="0" aria-label="All scores"><table>
<thead><tr><th>evaluated on</th><th>metric</th>
{% for _, label in run.phases %}<th class="n">{{ label }}</th>{% endfor %}<th>change</th></tr></thead>
<tbody>{% for score in run.scores %}
<tr><th scope="row">{{ score.set }}</th><td>{{ score.metric }}</td>
{% for phase, _ in run.phases %}<td class="n">{{ value(score, phase) }}</td>{% endfor %}
<td class="{{ score.verdict }}">{{ change(score) }}</td></tr>
{% endfor %}</tbody></table></div></details>
{% endif %}
{% else %}<p class="soft">No scores were written: {{ run.no_scores }}.</p>{% endif %}
{% if run.expected %}<p class="small" style="margin-top:10px">{{ run.expected }}</p>{% endif %}

{% for table in run.confusion %}
<h3>What was taken for what on {{ table.set }}</h3>
<div class="card scroll" tabindex="0" aria-label="Confusion matrix on {{ table.set }}"><table>
<thead><tr><th>is</th>{% for name in table.classes %}<th class="n">taken for {{ name }}</th>{% endfor %}</tr></thead>
<tbody>{% for name, cells in table.rows %}
<tr><th scope="row">{{ name }}</th>{% for told, share in cells %}<td class="n"
 style="background:color-mix(in srgb, var(--accent) {{ "%.0f"|format(60 * share) }}%, transparent)">{{ told }}</td>
{% endfor %}</tr>{% endfor %}</tbody></table></div>
{% endfor %}
{% for set in run.pictured %}
<h3>Images, texts and other inputs: {{ set.name }}</h3>
<div class="parts">
{% if set.recalls %}
<div class="card scroll" tabindex="0" aria-label="Retrieval on {{ set.name }}">
<p class="soft">Recall among {{ set.among }}: the share whose right answer is among the nearest.</p>
<table><thead><tr><th>from, to</th>{% for k in set.ks %}<th class="n">nearest {{ k }}</th>{% endfor %}</tr></thead>
<tbody>{% for way, values in set.recalls %}<tr><th scope="row">{{ way }}</th>
{% for value in values %}<td class="n">{{ value }}</td>{% endfor %}</tr>{% endfor %}</tbody></table>
{% for way, queries in set.ways %}
<table class="found"><thead><tr><th>{{ way }}</th>
<th colspan="5">nearest first; the right ones are marked ✓</th></tr></thead>
<tbody>{% for query in queries %}
<tr><th scope="row">{{ shown(query.asked) }}</th>
{% for answer in query.answers %}<td{% if answer.right %} class="right"{% endif %}>{{ shown(answer) }}
<div class="small{% if answer.right %} better{% else %} soft{% endif %}">{% if answer.right %}✓ {% endif %}
{{- answer.similarity }}</div></td>{% endfor %}</tr>
{% endfor %}</tbody></table>
{% endfor %}
</div>
{% endif %}
{% if set.without %}
<div class="card scroll" tabindex="0" aria-label="Scores without each modality on {{ set.name }}">
<p class="soft">{{ set.without.metric }} with each modality taken away, corrupted, or alone; with all of them it is
{{ set.without.all }}. Examples that are left with nothing do not count.</p>
<table><thead><tr><th>modality</th>
{% for cell in set.without.cells %}<th class="n">{{ cell }}</th>{% endfor %}</tr></thead>
<tbody>{% for name, values in set.without.rows %}<tr><th scope="row">{{ name }}</th>
{% for value in values %}<td class="n">{{ value }}</td>{% endfor %}</tr>{% endfor %}</tbody></table>
</div>
{% endif %}
{% if set.captions %}
<div class="card">
<p class="soft">What was written to the first images.{% for name, value in set.caption_scores %}
 {{ name }} {{ value }}{% if not loop.last %},{% endif %}{% endfor %} over {{ set.caption_count }}.</p>
<div class="cards">{% for one in set.captions %}
<figure style="margin:0">{{ shown({"image": one.image}) }}
<figcaption class="small {{ "better" if one.right else "worse" }}">{{ "✓" if one.right else "✗" }} {{ one.text }}
{% if not one.right %}<br><span class="soft">wanted: {{ one.wanted }}</span>{% endif %}</figcaption></figure>
{% endfor %}</div>
</div>
{% endif %}
{% if set.points or set.looked %}
<div class="cards">
{% if set.points %}
<figure class="card" style="margin:0">
<figcaption>The embeddings in their two directions of largest variance</figcaption>
<div class="small">{% for name, mark in set.points.modalities %}<span>{{ mark }} {{ name }}</span> {% endfor %}
{% for name, place in set.points.groups %}<span style="color:var(--s{{ place }})">■ {{ name }}</span> {% endfor %}</div>
{{ set.points.svg }}</figure>
{% endif %}
{% if set.looked %}
<figure class="card" style="margin:0"><figcaption>Where the image tower's last layer looks</figcaption>
<div class="cards">{% for one in set.looked %}
<div class="looked"><img src="{{ one.image }}" alt="an image">{{ one.svg }}</div>
{% endfor %}</div></figure>
{% endif %}
</div>
{% endif %}
</div>
{% endfor %}
{% if run.charts %}
<h3>What happened</h3>
<div class="charts">
{% for chart in run.charts %}
<figure class="card"><figcaption>{{ chart.title }}
{% if chart.legend|length > 1 %}<span class="legend">{% for name in chart.legend %}<span>
<svg viewBox="0 0 22 8" aria-hidden="true"><line class="key s{{ loop.index0 % 6 }}" x1="1" x2="21" y1="4" y2="4"/></svg>
{{- name }}</span>{% endfor %}</span>{% endif %}</figcaption>
{{ chart.svg }}</figure>
{% endfor %}
</div>
{% endif %}
{% if run.marks %}
<ol class="events" aria-label="Events, numbered as the dashed lines above">
{% for mark in run.marks %}<li value="{{ mark.number }}"><span class="soft">step {{ number(mark.step) }}:</span>
{{ mark.text }}</li>{% endfor %}
</ol>
{% endif %}

<h3>The composition, outermost first</h3>
{% if run.parts %}
{% for part in run.parts %}
<div class="box d{{ loop.index0 % 6 }}"><div class="name">{{ part.name }}</div>
{% if part.summary %}<p>{{ words(part.summary) }}</p>{% endif %}
{% if part.numbers %}<ul class="numbers">{% for item in part.numbers %}<li>{{ item }}</li>{% endfor %}</ul>{% endif %}
{% if part.paper %}<p class="small soft">{{ part.paper }}</p>{% endif %}
{% endfor %}
<div class="box core"><div class="name">loss and optimizer</div>
{% if run.core_numbers %}<ul class="numbers">{% for item in run.core_numbers %}<li>{{ item }}</li>{% endfor %}</ul>
{% endif %}</div>
{% for part in run.parts %}</div>{% endfor %}
{% else %}<p class="soft">No methods: the plain loss and optimizer.</p>{% endif %}

{% if run.groups %}
<h3>What learned</h3>
<div class="card">
<p>{{ run.learned }}</p>
<table>
<thead><tr><th>parameters</th><th class="n arrays">arrays</th><th class="n">numbers</th>
<th class="wide">share</th></tr></thead>
<tbody>{% for group in run.groups %}
<tr><td class="path">{{ breakable(group.pattern) }}</td><td class="n arrays">{{ group.leaves }}</td>
<td class="n">{{ "{:,}".format(group.size) }}</td>
<td><span class="share">
<span class="small">{{ "%.1f"|format(100 * group.share) }} %</span>
<span class="bar" aria-hidden="true"><i style="width:{{ "%.1f"|format(100 * group.share) }}%"></i></span>
</span></td></tr>
{% endfor %}</tbody></table>
{% if run.more_groups %}<p class="small soft">and {{ run.more_groups }} smaller groups</p>{% endif %}
</div>
{% endif %}

{% if run.examples %}
<h3>Predictions</h3>
<div class="card scroll" tabindex="0" aria-label="Predictions"><table>
<thead><tr><th>text</th><th>label</th><th>prediction</th><th class="n">probability</th></tr></thead>
<tbody>{% for example in run.examples %}
<tr><td>{{ example.text }}</td><td>{{ example.label if example.label is not none else "–" }}</td>
<td>{{ example.prediction }}{% if example.label is not none %}
{% if example.label == example.prediction %}<span class="better" title="as labelled">✓</span>
{% else %}<span class="worse" title="not as labelled">✗</span>{% endif %}{% endif %}</td>
<td class="n">{{ "%.2f"|format(example.probability) if example.probability is not none else "–" }}</td></tr>
{% endfor %}</tbody></table></div>
{% endif %}

{% if run.tasks %}
<h3>Tasks in turn: {{ run.tasks.metric }}</h3>
<div class="card scroll" tabindex="0" aria-label="Scores on every task after each">
{{ run.tasks.svg }}
<dl>{% for name, value in run.tasks.numbers %}<dt>{{ name }}</dt><dd>{{ value }}</dd>{% endfor %}</dl>
</div>
{% endif %}

{% if run.answers %}
<h3>Answers before and after</h3>
<div class="card scroll" tabindex="0" aria-label="Answers before and after">
<table>
<thead><tr><th>prompt</th>
{% for phase in run.answer_phases %}<th>{{ phase }}</th><th class="n">reward</th>{% endfor %}</tr></thead>
<tbody>
{% for one in run.answers %}
<tr><th scope="row">{{ one.prompt }}</th>
{% for said in one.said %}<td>{{ said.answer }}</td><td class="n">{{ said.reward }}</td>{% endfor %}</tr>
{% endfor %}
</tbody>
</table>
</div>
{% endif %}

{% if run.attention %}
<h3>Attention maps</h3>
<div class="card">
<p class="soft">Mean over the heads; rows attend to columns, darker where more goes.</p>
{% for example in run.attention %}
<p>{{ example.text }}</p>
<div class="cards">{% for map in example.maps %}
<figure style="margin:0"><figcaption class="small soft">layer {{ map.layer }}</figcaption>{{ map.svg }}</figure>
{% endfor %}</div>
{% endfor %}
</div>
{% endif %}

<h3>Again</h3>
<div class="card">
<pre tabindex="0" aria-label="Command that reproduces this run"><code>{{ run.command }}</code></pre>
<dl>{% for name, text in run.details %}<dt>{{ name }}</dt><dd>{{ text }}</dd>{% endfor %}</dl>
</div>
</article>
{% endfor %}
</main>
</body>
</html>
"""
