"use strict";
// The conversation: parts are added in order, sent as one message, and the answer streams in.

const $ = (id) => document.getElementById(id);
let messages = [];    // the chat, as the server wants it
let parts = [];       // of the next message: texts, and audio with its picture
let recording = null;
let reading = null;   // the answer that is streaming in

const headers = () => ($("key").value ? { Authorization: `Bearer ${$("key").value}` } : {});

function tell(problem) {
  $("problem").textContent = problem;
  $("problem").hidden = !problem;
}

function audioRow(audio) {
  const row = document.createElement("div");
  row.className = "audio";
  const length = document.createElement("span");
  length.textContent = `${audio.secs.toFixed(1)} s`;
  row.append(waveform(audio), length);
  return row;
}

function showParts() {
  $("parts").replaceChildren(...parts.map((part, number) => {
    const item = document.createElement("li");
    const drop = document.createElement("button");
    drop.type = "button";
    drop.className = "bare";
    drop.textContent = "×";
    drop.title = "Leave this part out";
    drop.onclick = () => { parts.splice(number, 1); showParts(); };
    item.append(part.audio ? audioRow(part.audio) : document.createTextNode(part.text), drop);
    return item;
  }));
}

function takeText() {
  const text = $("text").value.trim();
  if (text) parts.push({ text });
  $("text").value = "";
}

async function addAudio(blob) {
  try {
    const audio = await decoded(blob);
    takeText();  // what was written before the audio stands before it
    parts.push({ audio });
    showParts();
    tell("");
  } catch (error) {
    tell(`This audio cannot be read: ${error.message || error}`);
  }
}

function bubble(role) {
  const message = document.createElement("div");
  message.className = `message ${role}`;
  $("chat").append(message);
  message.scrollIntoView({ block: "end" });
  return message;
}

function contentOf(part) {
  return part.audio
    ? { type: "input_audio", input_audio: { data: base64(part.audio.wav), format: "wav" } }
    : { type: "text", text: part.text };
}

/** Server-sent events of a response, parsed. */
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const data = block.replace(/^data: /, "");
      if (data !== "[DONE]") yield JSON.parse(data);
    }
  }
}

async function answer(chat, message) {
  reading = new AbortController();
  const response = await fetch("v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json", ...headers() },
    body: JSON.stringify({ messages: chat, stream: true }),
    signal: reading.signal,
  });
  if (!response.ok) {
    const problem = await response.json().catch(() => null);
    if (response.status === 401) $("key-label").hidden = false;
    throw new Error(problem?.error?.message || `the server answers ${response.status}`);
  }
  let text = "";
  for await (const event of events(response)) {
    if (event.error) throw new Error(event.error.message);
    text += event.choices[0]?.delta.content || "";
    message.textContent = text;
    message.scrollIntoView({ block: "end" });
  }
  return text;
}

function busy(is) {
  $("send").hidden = is;
  $("stop").hidden = !is;
}

async function send() {
  takeText();
  if (!parts.length || reading) return;
  const sent = parts;
  parts = [];
  showParts();
  tell("");
  const shown = bubble("user");
  shown.append(...sent.map((part) => {
    if (part.audio) return audioRow(part.audio);
    const text = document.createElement("p");
    text.textContent = part.text;
    return text;
  }));
  const chat = messages;  // which "new chat" replaces
  chat.push({ role: "user", content: sent.map(contentOf) });
  const reply = bubble("assistant");
  reply.classList.add("waiting");
  busy(true);
  try {
    const text = await answer(chat, reply);
    if (text) {
      chat.push({ role: "assistant", content: text });
    } else {  // what was answered with nothing is no part of the chat: no turn may be empty
      chat.pop();
      reply.textContent = "(nothing)";
    }
  } catch (error) {  // the message comes back, to be sent again
    chat.pop();
    shown.remove();
    reply.remove();
    if (chat === messages) {
      parts = [...sent, ...parts];
      showParts();
    }
    if (error.name !== "AbortError") tell(error.message);
  } finally {
    reply.classList.remove("waiting");
    reading = null;
    busy(false);
    $("text").focus();
  }
}

$("turn").onsubmit = (event) => { event.preventDefault(); send(); };
$("text").onkeydown = (event) => {
  if (event.key === "Enter" && !event.shiftKey) { event.preventDefault(); send(); }
};
$("stop").onclick = () => reading?.abort();
$("new").onclick = () => {
  reading?.abort();
  messages = [];
  $("chat").replaceChildren();
  tell("");
};
$("file").onchange = async () => {
  for (const file of $("file").files) await addAudio(file);
  $("file").value = "";
};
$("record").onclick = async () => {
  try {
    if (recording) {
      const blob = await recording.stop();
      recording = null;
      await addAudio(blob);
    } else {
      recording = await microphone();
    }
  } catch (error) {
    tell(`No microphone: ${error.message || error}`);
  }
  $("record").classList.toggle("on", Boolean(recording));
  $("record").textContent = recording ? "stop recording" : "record";
};

async function greet() {
  const response = await fetch("v1/models", { headers: headers() });
  if (response.status === 401) {
    $("key-label").hidden = false;
    return;
  }
  $("model").textContent = (await response.json()).data[0].id;
  $("report").hidden = !(await fetch("report", { method: "HEAD", headers: headers() })).ok;
}

$("key").onchange = greet;
greet();
