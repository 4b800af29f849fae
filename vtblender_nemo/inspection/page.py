"""The report's page, a Jinja template; everything in it is escaped."""

STYLE = """
  :root { color-scheme: light; --ink: #1b1f24; --soft: #5d6673; --line: #dfe3e8; --bad: #b3261e; --good: #1a7f37; }
  * { box-sizing: border-box; }
  body { font: 15px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; color: var(--ink);
         margin: 0 auto; padding: 28px 24px 80px; max-width: 1080px; background: #fff; }
  h1 { font-size: 25px; margin: 0 0 4px; }
  h2 { font-size: 19px; margin: 42px 0 10px; padding-bottom: 5px; border-bottom: 2px solid var(--line); }
  p { margin: 8px 0; }
  .soft { color: var(--soft); }
  code, .place { font: 13px/1.45 ui-monospace, "SFMono-Regular", Menlo, Consolas, "DejaVu Sans Mono", monospace;
                 overflow-wrap: anywhere; }
  .cards { display: flex; flex-wrap: wrap; gap: 12px; margin: 20px 0; }
  .card { flex: 1 1 130px; border: 1px solid var(--line); border-radius: 8px; padding: 10px 14px; }
  .card b { display: block; font-size: 21px; font-variant-numeric: tabular-nums; }
  .card.bad { border-color: var(--bad); } .card.bad b { color: var(--bad); }
  .card.good b { color: var(--good); }
  .wide { overflow-x: auto; }
  table { border-collapse: collapse; width: 100%; font-size: 14px; }
  th, td { text-align: right; padding: 6px 10px; border-bottom: 1px solid var(--line); white-space: nowrap;
           font-variant-numeric: tabular-nums; vertical-align: top; }
  th { color: var(--soft); font-weight: 600; white-space: normal; vertical-align: bottom; }
  th:first-child, td:first-child, .left { text-align: left; }
  td.text { white-space: normal; text-align: left; overflow-wrap: anywhere; }
  .dot { display: inline-block; width: 10px; height: 10px; border-radius: 2px; margin-right: 7px; }
  .error { color: var(--bad); font-weight: 600; } .warning { color: #8a5a00; font-weight: 600; }
  img.plot { display: block; width: 100%; height: auto; margin: 8px 0; }
  .pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(440px, 1fr)); gap: 10px 20px; }
  .pair figure { margin: 0; } figcaption { font-weight: 600; margin-top: 10px; }
  .sample { border: 1px solid var(--line); border-left-width: 5px; border-radius: 8px; padding: 10px 16px; margin: 16px 0; }
  .turn { display: grid; grid-template-columns: 88px 1fr; gap: 4px 12px; margin: 9px 0; }
  .turn .role { color: var(--soft); font-weight: 600; font-size: 13px; padding-top: 1px; }
  .turn.assistant .role { padding-top: 6px; }
  .turn.assistant .said { background: #f1f6fb; border-radius: 6px; padding: 5px 10px; margin-left: -10px; }
  .said p { margin: 0 0 6px; white-space: pre-wrap; overflow-wrap: anywhere; } .said p:last-child { margin-bottom: 0; }
  .said .audio { display: flex; align-items: center; gap: 10px; margin: 2px 0 6px; }
  audio { height: 34px; width: min(360px, 100%); }
  .notes { margin: 8px 0 0; font-size: 13px; color: var(--soft); overflow-wrap: anywhere; }
  details summary { cursor: pointer; color: var(--soft); }
"""

PAGE = """{% macro dot(name) %}<span class="dot" style="background: {{ colors[name] }}"></span>{% endmacro %}
{% macro plot(name, title) %}
{% if pictures[name] %}
<figure><figcaption>{{ title }}</figcaption><img class="plot" alt="{{ title }}" src="{{ pictures[name] }}"></figure>
{% endif %}
{% endmacro %}
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Blend: {{ inspection.subject.name }}</title>
<style>
{{ style | safe }}
</style>
</head>
<body>
<h1>What is in the blend</h1>
<p class="place">{{ inspection.subject.name }}</p>
<p class="soft">Made {{ made }}. Token counts: {{ inspection.tokens }}. Audio:
{% if inspection.options.audio == "none" %}not looked at; lengths are the rows' word.
{% elif inspection.options.audio == "header" %}every file was opened and its header held to its row.
{% else %}every file was decoded.{% endif %}
{% if inspection.options.max_rows %}
Only the first {{ inspection.options.max_rows | number }} rows of every source were checked.
{% endif %}</p>

<div class="cards">
  <div class="card {{ 'bad' if inspection.errors else 'good' }}"><b>{{ inspection.errors | number }}</b>bad rows</div>
  <div class="card"><b>{{ inspection.warnings | number }}</b>warnings</div>
  <div class="card"><b>{{ totals.rows | number }}</b>training rows</div>
  <div class="card"><b>{{ "%.1f" | format(totals.hours) }}</b>hours of audio</div>
  <div class="card"><b>{{ totals.text_tokens | number }}</b>text tokens</div>
  <div class="card"><b>{{ totals.target_tokens | number }}</b>tokens to learn</div>
  <div class="card"><b>{{ totals.frames | number }}</b>speech frames</div>
</div>

{% if inspection.problems %}
<h2>What was found</h2>
<div class="wide"><table>
<tr><th class="left">level</th><th class="left">problem</th><th>rows</th></tr>
{% for problem in inspection.problems %}
<tr><td class="{{ problem.level }}">{{ problem.level }}</td>
<td class="text">{{ problem.problem }}
<details {% if loop.index <= 3 %}open{% endif %}>
<summary>{{ "the first" if problem.count > problem.examples | length else "where" }}</summary>
{% for finding in problem.examples %}
<div class="place">{{ finding.path }}:{{ finding.line }}: in {{ finding.source }}:
{{ finding.detail or finding.problem }}</div>
{% endfor %}</details></td>
<td>{{ problem.count | number }}</td></tr>
{% endfor %}
</table></div>
{% endif %}

<h2>Sources</h2>
<div class="wide"><table>
<tr><th>source</th><th class="left">type</th><th>rows</th><th>bad</th><th>left out</th><th>hours</th>
<th>seconds in a row<br>5% · median · 95%</th><th>text tokens</th><th>target tokens</th><th>rates (Hz)</th></tr>
{% for count in inspection.counts %}
<tr><td>{{ dot(count.name) }}{{ count.name }}</td>
<td class="left">{{ count.type }}</td><td>{{ count.rows | number }}</td>
<td{% if count.errors %} class="error"{% endif %}>{{ count.errors | number }}</td>
<td title="{{ count.left_out }}">{{ count.left_out.values() | sum | number }}</td>
<td>{{ "%.2f" | format(count.hours) if count.audios else "–" }}</td>
<td>{% if count.audio_secs %}{{ "%.1f · %.1f · %.1f" | format(*count.audio_secs) }}{% else %}–{% endif %}</td>
<td>{{ count.text_tokens | number }}</td><td>{{ count.target_tokens | number }}</td>
<td>{{ count.rates.keys() | join(", ") or "–" }}</td></tr>
{% endfor %}
</table></div>
<p class="soft">“Left out” are good rows that break a limit of the training
(min_duration, max_duration, max_tokens, batch_tokens).</p>

{% if inspection.plans %}
{% set plans = inspection.plans %}
<h2>Shares</h2>
<p>Of {{ plans.planned | length | number }} rows drawn as training draws them; the weight counts {{ plans.probabilities }}.</p>
<img class="plot" alt="Shares by source" src="{{ pictures.shares }}">
<div class="wide"><table>
<tr><th>source</th><th>by weight</th><th>rows</th><th>speech frames</th><th>target tokens</th></tr>
{% macro share_rows(shares, dots) %}
{% for name, share in shares.items() %}
<tr><td>{{ dot(name) if dots }}{{ name }}</td>
<td>{{ share.probability | percent }}</td><td>{{ share.rows | percent }}</td>
<td>{{ share.frames | percent }}</td><td>{{ share.targets | percent }}</td></tr>
{% endfor %}
{% endmacro %}
{{ share_rows(plans.by_source, true) }}
</table></div>
{% for title, shares in (("type", plans.by_type), ("corpus", plans.by_corpus)) %}
{% if shares.keys() | list != plans.by_source.keys() | list %}
<details><summary>by {{ title }}</summary><div class="wide"><table>
<tr><th>{{ title }}</th><th>by weight</th><th>rows</th><th>speech frames</th><th>target tokens</th></tr>
{{ share_rows(shares, false) }}</table></div></details>
{% endif %}
{% endfor %}
{% set positions = plans.planned.length.sum() %}
<p class="soft">Of all positions of the LLM {{ (plans.planned.frames.sum() / positions) | percent }} are speech frames
and {{ (plans.planned.targets.sum() / positions) | percent }} are learned.</p>
{% else %}
<h2>Shares</h2>
<p class="error">The blend cannot be drawn from: {{ inspection.no_plans }}</p>
{% endif %}

<h2>Lengths</h2>
<div class="pair">
{{ plot("audio_secs", "Seconds of audio") }}
{{ plot("text_tokens", "Text tokens") }}
{{ plot("target_tokens", "Tokens to be learned") }}
</div>

{% if inspection.plans %}
{% set plans = inspection.plans %}
<h2>Micro-batches</h2>
<div class="wide"><table>
<tr><th>joined by</th><th>padding of positions</th><th>padding of audio</th>
<th>rows of a micro-batch<br>mean (least to most)</th><th>most positions</th></tr>
{% for title, padding in (("the blend's buckets", plans.own), ("bins of frames × tokens", plans.two_dimensional),
("as many rows, any lengths", plans.fixed)) %}
<tr><td>{{ title }}</td><td>{{ padding.positions | percent }}</td><td>{{ padding.audio | percent }}</td>
<td>{{ "%.1f" | format(padding.rows[0]) }} ({{ padding.rows[1] }} to {{ padding.rows[2] }})</td>
<td>{{ padding.largest | number }}</td></tr>
{% endfor %}
</table></div>
{% if inspection.subject.batches_assumed %}
<p class="soft">A list of sources has no bounds of micro-batches: batch_tokens
{{ inspection.subject.train.batch_tokens | number }} and {{ inspection.subject.train.num_buckets }} buckets are
this command's.</p>
{% endif %}
<div class="pair">
{{ plot("lengths", "Bins over the total length") }}
{{ plot("bins", "Bins over speech frames × text tokens") }}
</div>
{% for name, bins in plans.bins.total_length.items() %}
<p>Bins{{ " of " + name if name }}: <code>{{ bins | bins }}</code></p>
{% endfor %}
<p>Frames × tokens: <code>{{ plans.bins.two_dimensional | bins }}</code></p>
{% endif %}

{% if inspection.samples %}
<h2>Samples</h2>
{% for sample in inspection.samples %}
<div class="sample" style="border-left-color: {{ colors[sample.source] }}">
<div><b>{{ sample.source }}</b> <span class="soft">· {{ sample.length }} positions ·</span>
<span class="place soft">{{ sample.place }}</span></div>
{% for turn in sample.turns %}
<div class="turn {{ turn.role }}"><div class="role">{{ turn.role }}</div><div class="said">
{% for part in turn.parts %}
{% if part.audio %}
<div class="audio"><audio controls preload="metadata" src="{{ part.audio }}"></audio>
<span class="soft">{{ part.secs | secs }}</span></div>
{% else %}
<p>{{ part.text }}</p>
{% endif %}
{% endfor %}
</div></div>
{% endfor %}
<div class="notes">
{% for key, value in sample.notes.items() %}<b>{{ key }}</b> {{ value }}{{ " · " if not loop.last }}{% endfor %}
</div>
</div>
{% endfor %}
{% endif %}
</body>
</html>
"""
