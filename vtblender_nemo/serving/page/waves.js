"use strict";
// Audio in the browser: whatever it can decode becomes mono WAV at 16 kHz, with a picture and a player.

const RATE = 16000;

/** Decodes a file or a recording; resolves to {wav: Uint8Array, samples: Float32Array, secs}. */
async function decoded(blob) {
  const context = new AudioContext();
  try {
    const buffer = await context.decodeAudioData(await blob.arrayBuffer());
    const frames = Math.max(1, Math.ceil(buffer.duration * RATE));
    const offline = new OfflineAudioContext(1, frames, RATE);  // resamples, and mixes to one channel
    const source = offline.createBufferSource();
    source.buffer = buffer;
    source.connect(offline.destination);
    source.start();
    const samples = (await offline.startRendering()).getChannelData(0);
    return { wav: wavOf(samples), samples, secs: samples.length / RATE };
  } finally {
    context.close();
  }
}

/** 16-bit PCM in a WAV file. */
function wavOf(samples) {
  const bytes = new Uint8Array(44 + 2 * samples.length);
  const view = new DataView(bytes.buffer);
  const text = (place, word) => [...word].forEach((letter, i) => view.setUint8(place + i, letter.charCodeAt(0)));
  text(0, "RIFF"); view.setUint32(4, 36 + 2 * samples.length, true); text(8, "WAVEfmt ");
  view.setUint32(16, 16, true); view.setUint16(20, 1, true); view.setUint16(22, 1, true);
  view.setUint32(24, RATE, true); view.setUint32(28, 2 * RATE, true);
  view.setUint16(32, 2, true); view.setUint16(34, 16, true);
  text(36, "data"); view.setUint32(40, 2 * samples.length, true);
  samples.forEach((sample, i) => view.setInt16(44 + 2 * i, Math.max(-1, Math.min(1, sample)) * 32767, true));
  return bytes;
}

/** Base64 of bytes. */
function base64(bytes) {
  let text = "";
  for (let start = 0; start < bytes.length; start += 0x8000) {
    text += String.fromCharCode(...bytes.subarray(start, start + 0x8000));
  }
  return btoa(text);
}

/** A canvas with the outline of samples; a click plays them, and the part that was played is coloured. */
function waveform(audio) {
  const canvas = document.createElement("canvas");
  canvas.width = 448;
  canvas.height = 80;
  canvas.tabIndex = 0;
  canvas.setAttribute("role", "button");
  canvas.setAttribute("aria-label", `Play ${audio.secs.toFixed(1)} seconds of audio`);
  const player = new Audio(URL.createObjectURL(new Blob([audio.wav], { type: "audio/wav" })));
  const draw = () => {
    const style = getComputedStyle(document.documentElement);
    const context = canvas.getContext("2d");
    const played = player.duration ? player.currentTime / player.duration : 0;
    context.clearRect(0, 0, canvas.width, canvas.height);
    const bars = 112, width = canvas.width / bars, share = audio.samples.length / bars;
    for (let bar = 0; bar < bars; bar++) {
      let peak = 0.02;
      for (let i = Math.floor(bar * share); i < (bar + 1) * share; i++) peak = Math.max(peak, Math.abs(audio.samples[i] || 0));
      context.fillStyle = style.getPropertyValue(bar / bars < played ? "--accent" : "--soft");
      const height = Math.min(1, peak) * canvas.height;
      context.fillRect(bar * width, (canvas.height - height) / 2, width * 0.6, height);
    }
    if (!player.paused) requestAnimationFrame(draw);
  };
  const toggle = () => { player.paused ? player.play().then(draw) : player.pause(); };
  player.onended = () => { player.currentTime = 0; draw(); };
  canvas.onclick = toggle;
  canvas.onkeydown = (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); toggle(); } };
  draw();
  return canvas;
}

/** Records with the microphone until stopped; resolves to a Blob. */
async function microphone() {
  const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
  const recorder = new MediaRecorder(stream);
  const chunks = [];
  recorder.ondataavailable = (event) => chunks.push(event.data);
  const whole = new Promise((resolve) => {
    recorder.onstop = () => {
      stream.getTracks().forEach((track) => track.stop());
      resolve(new Blob(chunks, { type: recorder.mimeType }));
    };
  });
  recorder.start();
  return { stop: () => { recorder.stop(); return whole; } };
}
