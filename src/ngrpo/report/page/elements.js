// Text from models and data sets enters the page through `textContent` only.
function make(tag, { text, ...properties } = {}, children = []) {
  const element = Object.assign(document.createElement(tag), properties);
  if (text !== undefined) element.textContent = text;
  element.append(...children);
  return element;
}

function readJson(id) {
  const source = document.getElementById(id);
  return source ? JSON.parse(source.textContent) : null;
}

function later(action, waitMs) {
  let timer;
  return () => { clearTimeout(timer); timer = setTimeout(action, waitMs); };
}

function number(value) {
  if (value === null) return "none";
  return String(Number(value.toPrecision(3))).replace("-", "\u2212");
}
